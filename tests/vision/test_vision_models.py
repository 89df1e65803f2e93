"""Models with the names and numbers of parameters that published weights have."""

import pytest
from tests.turns import in_turn

import kiln
from kiln.vision import models
from kiln.vision.models import detection, segmentation, swin_transformer, video
from kiln.vision.models.convnext import CNBlockConfig

PARAMETERS = {  # as torchvision's documentation tells them
    "densenet121": 7_978_856, "efficientnet_b0": 5_288_548, "mobilenet_v2": 3_504_872,
    "mobilenet_v3_small": 2_542_856, "resnet18": 11_689_512, "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496, "googlenet": 13_004_888, "mnasnet0_5": 2_218_512, "shufflenet_v2_x0_5": 1_366_792,
    "regnet_x_400mf": 5_495_976,
}  # fmt: skip
MORE = {
    "convnext_base": 88_591_464, "convnext_large": 197_767_336, "convnext_small": 50_223_688, "convnext_tiny": 28_589_128,
    "efficientnet_v2_l": 118_515_272, "efficientnet_v2_m": 54_139_356, "efficientnet_v2_s": 21_458_488,
    "inception_v3": 27_161_264, "mnasnet0_75": 3_170_208, "mnasnet1_0": 4_383_312, "mnasnet1_3": 6_282_256,
    "regnet_x_16gf": 54_278_536, "regnet_x_1_6gf": 9_190_136, "regnet_x_32gf": 107_811_560, "regnet_x_3_2gf": 15_296_552,
    "regnet_x_800mf": 7_259_656, "regnet_x_8gf": 39_572_648, "regnet_y_16gf": 83_590_140,
    "regnet_y_1_6gf": 11_202_430, "regnet_y_32gf": 145_046_770, "regnet_y_3_2gf": 19_436_338, "regnet_y_400mf": 4_344_144,
    "regnet_y_800mf": 6_432_512, "regnet_y_8gf": 39_381_472, "resnext101_64x4d": 83_455_272, "shufflenet_v2_x1_0": 2_278_604,
    "shufflenet_v2_x1_5": 3_503_624, "shufflenet_v2_x2_0": 7_393_996, "swin_b": 87_768_224, "swin_s": 49_606_258, "swin_t": 28_288_354,
    "swin_v2_b": 87_930_848, "swin_v2_s": 49_737_442, "swin_v2_t": 28_351_570,
    "alexnet": 61_100_840, "densenet161": 28_681_000, "densenet169": 14_149_480, "densenet201": 20_013_928,
    "efficientnet_b1": 7_794_184, "efficientnet_b2": 9_109_994, "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616, "efficientnet_b5": 30_389_784, "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960, "mobilenet_v3_large": 5_483_032, "resnet101": 44_549_160,
    "resnet152": 60_192_808, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnext101_32x8d": 88_791_336,
    "resnext50_32x4d": 25_028_904, "vgg11_bn": 132_868_840, "vgg13_bn": 133_053_736, "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992, "vgg19_bn": 143_678_248, "vit_b_16": 86_567_656, "vit_b_32": 88_224_232,
    "vit_l_16": 304_326_632, "wide_resnet101_2": 126_886_696, "wide_resnet50_2": 68_883_240,
}  # fmt: skip
NAMES = {  # a few of each model's, which tell its structure
    "alexnet": ["features.0.weight", "features.10.bias", "classifier.6.weight"],
    "convnext_tiny": [
        "features.0.0.weight", "features.0.1.bias", "features.1.0.layer_scale", "features.1.0.block.0.weight",
        "features.1.2.block.2.bias", "features.1.2.block.5.weight", "features.2.0.weight", "features.2.1.bias",
        "features.7.2.block.3.weight", "classifier.0.weight", "classifier.2.bias",
    ],
    "efficientnet_v2_s": [
        "features.1.0.block.0.0.weight", "features.2.0.block.1.1.bias", "features.4.0.block.2.fc1.weight",
        "features.7.0.weight",
    ],
    "googlenet": [
        "conv1.conv.weight", "inception3a.branch1.bn.running_mean", "inception4e.branch3.1.conv.weight",
        "inception5b.branch4.1.bn.bias", "aux1.conv.bn.weight", "aux2.fc2.bias", "fc.weight",
    ],
    "inception_v3": [
        "Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch5x5_2.bn.bias", "Mixed_6c.branch7x7dbl_5.conv.weight",
        "Mixed_7c.branch3x3dbl_3b.conv.weight", "AuxLogits.conv1.bn.weight", "AuxLogits.fc.bias", "fc.weight",
    ],
    "mnasnet0_5": ["layers.0.weight", "layers.7.bias", "layers.8.0.layers.3.weight", "layers.15.running_var", "classifier.1.bias"],
    "regnet_x_400mf": [
        "stem.0.weight", "stem.1.bias", "trunk_output.block1.block1-0.proj.0.weight",
        "trunk_output.block4.block4-11.f.c.1.bias", "fc.weight",
    ],
    "regnet_y_400mf": ["trunk_output.block1.block1-0.f.se.fc1.weight", "trunk_output.block2.block2-0.f.a.0.weight"],
    "shufflenet_v2_x0_5": [
        "conv1.0.weight", "stage2.0.branch1.0.weight", "stage2.0.branch2.6.running_mean", "stage4.3.branch2.5.weight",
        "conv5.1.bias", "fc.weight",
    ],
    "swin_t": [
        "features.0.0.weight", "features.0.2.bias", "features.1.0.attn.relative_position_bias_table",
        "features.1.1.attn.relative_position_index", "features.1.0.attn.qkv.bias", "features.1.0.mlp.3.weight",
        "features.2.reduction.weight", "features.6.norm.bias", "norm.weight", "head.bias",
    ],
    "swin_v2_t": [
        "features.1.0.attn.logit_scale", "features.1.0.attn.cpb_mlp.2.weight", "features.1.0.attn.relative_coords_table",
    ],
    "densenet121": [
        "features.conv0.weight", "features.denseblock4.denselayer16.norm2.running_var",
        "features.transition3.conv.weight", "features.norm5.bias", "classifier.bias",
    ],
    "efficientnet_b0": [
        "features.0.0.weight", "features.1.0.block.0.0.weight", "features.1.0.block.1.fc1.bias",
        "features.2.1.block.3.1.running_mean", "features.8.1.num_batches_tracked", "classifier.1.weight",
    ],
    "mobilenet_v2": [
        "features.0.0.weight", "features.1.conv.0.0.weight", "features.1.conv.1.weight",
        "features.17.conv.3.running_var", "features.18.1.bias", "classifier.1.weight",
    ],
    "mobilenet_v3_large": ["features.4.block.2.fc2.weight", "features.16.1.weight", "classifier.3.bias"],
    "mobilenet_v3_small": ["features.1.block.1.fc1.weight", "features.12.0.weight", "classifier.0.bias"],
    "resnet18": ["conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.bn2.running_var", "fc.bias"],
    "resnet50": ["layer1.0.downsample.1.weight", "layer4.2.conv3.weight", "layer3.5.bn3.bias"],
    "squeezenet1_0": ["features.3.squeeze.weight", "features.12.expand3x3.bias", "classifier.1.weight"],
    "squeezenet1_1": ["features.3.squeeze.weight", "features.12.expand1x1.weight", "classifier.1.bias"],
    "vit_b_16": [
        "class_token", "conv_proj.weight", "encoder.pos_embedding", "encoder.ln.weight", "heads.head.bias",
        "encoder.layers.encoder_layer_11.self_attention.in_proj_weight",
        "encoder.layers.encoder_layer_0.mlp.3.weight", "encoder.layers.encoder_layer_0.ln_2.bias",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [*PARAMETERS, *(pytest.param(n, marks=pytest.mark.slow) for n in MORE)]
)
def test_names_and_numbers_of_parameters(name):
    m = models.get_model(name)
    assert sum(p.numel() for p in m.parameters()) == (PARAMETERS | MORE)[name]
    state = m.state_dict()
    assert [k for k in NAMES.get(name, []) if k not in state] == []


def test_a_step_of_training():
    m = models.MobileNetV2(5, 0.25, ((1, 8, 1, 1), (6, 8, 2, 2)))
    loss = kiln.nn.functional.cross_entropy(m(kiln.rand(2, 3, 16, 16)), kiln.tensor([1, 3]))
    loss.backward()
    assert all(p.grad is not None for p in m.parameters())


def test_a_small_transformer():
    m = models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4)
    names = [n.replace("encoder_layer_11", "encoder_layer_1") for n in NAMES["vit_b_16"]]
    assert [k for k in names if k not in m.state_dict()] == []
    assert m(kiln.rand(2, 3, 32, 32)).shape == (2, 4)
    with pytest.raises(ValueError, match="Wrong image size"):
        m(kiln.rand(2, 3, 16, 16))


def test_weights_are_read_from_hubs_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("kiln.hub.get_dir", lambda: str(tmp_path))
    known = models.SqueezeNet1_1_Weights
    source = models.squeezenet1_1()
    (tmp_path / "checkpoints").mkdir()
    kiln.save(source.state_dict(), tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    for weights in (
        known.DEFAULT,
        known.IMAGENET1K_V1,
        "DEFAULT",
        "SqueezeNet1_1_Weights.IMAGENET1K_V1",
    ):
        m = models.squeezenet1_1(weights=weights)
        assert (m.classifier[1].weight == source.classifier[1].weight).all()
    with pytest.raises(ValueError, match="another model"):
        models.squeezenet1_0(weights=known.DEFAULT)
    with pytest.raises(ValueError, match="Unable to find"):
        models.squeezenet1_1(weights="IMAGENET1K_V7")


def test_weights_that_can_not_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("kiln.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("kiln.vision.models.registry._BASE", "file:///nowhere/")
    with pytest.raises(RuntimeError, match="weights are not here") as e:
        models.squeezenet1_1(pretrained=True)
    assert "checkpoints" in str(e.value)


def test_lists_of_models():
    assert models.list_models(include="vgg*", exclude="*_bn") == [
        "vgg11",
        "vgg13",
        "vgg16",
        "vgg19",
    ]
    with pytest.raises(ValueError, match="Unknown model"):
        models.get_model("resnet17")


def test_the_alias():
    from kiln.compat.torch import face

    assert face("torchvision.models").resnet18 is models.resnet18
    assert (
        face("torchvision.models").__dict__["resnet18"] is models.resnet18
    )  # as imagenet programs do
    assert face("torchvision.transforms.v2").ToImage is kiln.vision.transforms.v2.ToImage
    assert face("torchvision.datasets.mnist").MNIST is kiln.vision.datasets.MNIST
    assert face("torchvision.models.vgg").VGG is models.VGG
    assert face("torch.optim.adamw").AdamW is kiln.optim.AdamW


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)], 0.1, num_classes=5),
        lambda: models.SwinTransformer([2, 2], 8, [2, 2], [1, 2], [4, 4], num_classes=5),
        lambda: models.SwinTransformer(
            [2, 2], 8, [2, 2], [1, 2], [4, 4], num_classes=5, block=swin_transformer.SwinTransformerBlockV2,
            downsample_layer=swin_transformer.PatchMergingV2,
        ),
        lambda: models.ShuffleNetV2([1, 2, 1], [8, 8, 16, 32, 16], 5),
        lambda: models.MNASNet(0.1, 5),
        lambda: models.RegNet(models.BlockParams.from_init_params(4, 8, 8.0, 2.0, 8, se_ratio=0.25), 5),
        lambda: models.EfficientNet(
            1.0, 1.0, 0.1, num_classes=5, setting=((1, 3, 1, 8, 8, 2, True), (4, 3, 2, 8, 16, 1)), last_channel=32
        ),
    ],
    ids=["convnext", "swin", "swin v2", "shufflenet", "mnasnet", "regnet", "efficientnet v2"],
)  # fmt: skip
def test_every_family_trains(make):
    kiln.manual_seed(0)
    m = make()
    loss = kiln.nn.functional.cross_entropy(m(kiln.rand(2, 3, 36, 36)), kiln.tensor([1, 3]))
    loss.backward()
    assert all(p.grad is not None for p in m.parameters())
    with kiln.no_grad():
        assert m.eval()(kiln.rand(1, 3, 36, 36)).shape == (1, 5)


def test_windows_are_shifted_and_see_no_other_part():
    attention = swin_transformer.ShiftedWindowAttention(4, [4, 4], [2, 2], 1)
    x = kiln.rand(1, 8, 8, 4, requires_grad=True)
    attention(x)[0, 3, 3].sum().backward()  # in the window from (2, 2) to (5, 5)
    seen = x.grad[0].abs().sum(-1) > 1e-9
    want = kiln.zeros(8, 8, dtype=kiln.bool)
    want[2:6, 2:6] = True
    assert seen.equal(want)
    x.grad = None
    attention(x)[0, 0, 7].sum().backward()  # in the corner, which the shift joins to three others
    want = kiln.zeros(8, 8, dtype=kiln.bool)
    want[:2, 6:] = True
    assert (x.grad[0].abs().sum(-1) > 1e-9).equal(want)


def test_classifiers_in_the_middle(tmp_path, monkeypatch):
    kiln.manual_seed(0)
    source = models.googlenet(init_weights=False)
    out = source(kiln.rand(2, 3, 32, 32))
    assert out._fields == ("logits", "aux_logits2", "aux_logits1")
    monkeypatch.setattr("kiln.hub.get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    kiln.save(source.state_dict(), tmp_path / "checkpoints" / "googlenet-1378be20.pth")
    m = models.googlenet(weights="DEFAULT")
    assert m.transform_input
    assert m.aux1 is None


SEGMENTATION = {  # with the second classifier, as published
    "deeplabv3_resnet101": 60_996_202, "deeplabv3_resnet50": 42_004_074, "fcn_resnet101": 54_314_346, "fcn_resnet50": 35_322_218,
}  # fmt: skip


@in_turn("name", sorted(SEGMENTATION, key=lambda n: n != "deeplabv3_resnet50"))
def test_models_of_places(name):
    m = models.get_model(name, weights_backbone=None, aux_loss=True)
    assert sum(p.numel() for p in m.parameters()) == SEGMENTATION[name]
    state = m.state_dict()
    assert {
        "backbone.layer4.2.conv3.weight",
        "aux_classifier.4.bias",
        "classifier.4.weight",
    } <= set(state)
    assert ("classifier.0.convs.4.1.weight" in state) == name.startswith("deeplab")


def test_scores_are_as_large_as_the_picture():
    resnet = models.ResNet(models.BasicBlock, [1, 1, 1, 1], num_classes=3)
    names = {"layer4": "out", "layer3": "aux"}
    parts = (
        segmentation.IntermediateLayerGetter(resnet, names),
        segmentation.FCNHead(512, 5),
        segmentation.FCNHead(256, 5),
    )
    out = segmentation.FCN(*parts).eval()(kiln.rand(1, 3, 33, 40))
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "out": (1, 5, 33, 40),
        "aux": (1, 5, 33, 40),
    }
    assert "fc" not in parts[0]
    with pytest.raises(ValueError, match="not present"):
        segmentation.IntermediateLayerGetter(resnet, {"layer9": "out"})


def test_features_by_name():
    from kiln.vision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    m = models.ResNet(models.BasicBlock, [1, 1, 1, 1], num_classes=3)
    _, names = get_graph_node_names(m)
    assert names[:5] == ["x", "conv1", "bn1", "relu", "maxpool"]
    assert {"layer1.0.relu", "layer1.0.relu_1", "layer2.0.add", "flatten", "fc"} <= set(names)
    take = create_feature_extractor(m, {"layer1.0.relu_1": "a", "layer3": "b"}).eval()
    x = kiln.rand(1, 3, 32, 32)
    with kiln.no_grad():
        out = take(x)
        stem = m.eval().maxpool(m.relu(m.bn1(m.conv1(x))))
        kiln.testing.assert_close(out["a"], m.layer1(stem))
        kiln.testing.assert_close(out["b"], m.layer3(m.layer2(m.layer1(stem))))
    assert "layer4.0.conv1.weight" not in take.state_dict()
    take.train()
    assert take(kiln.rand(2, 3, 32, 32))["b"].requires_grad
    with pytest.raises(ValueError, match="not present"):
        create_feature_extractor(m, ["layer9"])


@pytest.mark.slow
def test_small_models_of_segmentation():
    for name, count in (
        ("deeplabv3_mobilenet_v3_large", 11_029_328),
        ("lraspp_mobilenet_v3_large", 3_221_538),
    ):
        options = {"aux_loss": True} if "deeplab" in name else {}
        m = models.get_model(name, weights=None, weights_backbone=None, **options).eval()
        assert (
            sum(p.numel() for p in m.parameters()) == count
        )  # as torchvision's documentation tells
        out = m(kiln.rand(1, 3, 33, 48))
        assert {k: tuple(v.shape) for k, v in out.items()} == dict.fromkeys(
            ["out", *(["aux"] if options else [])], (1, 21, 33, 48)
        )


def test_weights_know_how_pictures_are_prepared():
    picture = kiln.randint(0, 256, (3, 300, 400), dtype=kiln.uint8)
    prepared = models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    assert (prepared.crop_size, prepared.resize_size) == ([224], [232])
    assert prepared(picture).shape == (3, 224, 224)
    assert models.EfficientNet_B1_Weights.IMAGENET1K_V1.transforms()(picture).shape == (3, 240, 240)
    found = detection.SSD300_VGG16_Weights.DEFAULT.transforms()(picture)
    assert found.equal(picture.float() / 255)
    assert segmentation.FCN_ResNet50_Weights.DEFAULT.transforms()(picture).shape == (3, 520, 693)
    half = kiln.full((3, 480, 480), 0.5)
    assert models.EfficientNet_V2_L_Weights.DEFAULT.transforms()(half).abs().max() < 1e-6


def test_weights_name_their_classes():
    coco = detection.FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    assert (len(coco), coco[1], coco[12], coco[90]) == (91, "person", "N/A", "toothbrush")
    voc = segmentation.FCN_ResNet50_Weights.DEFAULT.meta["categories"]
    assert (len(voc), voc[20]) == (21, "tvmonitor")
    person = detection.KeypointRCNN_ResNet50_FPN_Weights.DEFAULT.meta
    assert (len(person["categories"]), len(person["keypoint_names"])) == (2, 17)


def test_weights_by_name():
    assert models.get_model_weights(models.densenet121).DEFAULT.value == "densenet121-a639ec97.pth"
    assert models.get_weight("Wide_ResNet50_2_Weights.IMAGENET1K_V2").name == "IMAGENET1K_V2"
    for wrong in ("ResNet50_Weights.IMAGENET1K_V9", "ResNet50"):
        with pytest.raises(ValueError, match="Unable to find"):
            models.get_weight(wrong)
    with pytest.raises(ValueError, match="no weights are known"):
        models.get_model_weights("vit_h_14")


def test_published_densenets_have_older_names():
    m = models.DenseNet(4, (2, 2), 8, num_classes=2)
    state = {
        k.replace("norm1", "norm.1").replace("conv2", "conv.2"): v
        for k, v in m.state_dict().items()
    }
    assert any("denselayer1.conv.2.weight" in k for k in state)
    m.load_state_dict(state)
    assert any("denselayer1.conv.2.weight" in k for k in state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("r3d_18", 33_371_472),
        ("mc3_18", 11_695_440),
        ("r2plus1d_18", 31_505_325),
        ("s3d", 8_320_048),
    ],
)
def test_models_of_video(name, count):
    m = models.get_model(name).eval()
    assert sum(p.numel() for p in m.parameters()) == count  # as torchvision's documentation tells
    names = (
        ["fc.bias"] if name != "s3d" else ["features.5.branch1.1.0.0.weight", "classifier.1.bias"]
    )
    names += ["layer2.0.downsample.1.running_var"] if name != "s3d" else []
    assert [k for k in names if k not in m.state_dict()] == []
    if name != "s3d":
        assert m(kiln.rand(2, 3, 4, 16, 16)).shape == (2, 400)


def test_videos_are_prepared_picture_by_picture():
    clip = kiln.randint(0, 256, (2, 4, 3, 60, 80), dtype=kiln.uint8)
    prepared = video.R3D_18_Weights.DEFAULT.transforms()
    out = prepared(clip)
    assert out.shape == (2, 3, 4, 112, 112)
    assert prepared(clip[1]).equal(out[1])

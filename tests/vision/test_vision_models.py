"""Models with the names and numbers of parameters that published weights have."""

import pytest

import kiln
from kiln.vision import models

PARAMETERS = {  # as torchvision's documentation tells them
    "densenet121": 7_978_856, "efficientnet_b0": 5_288_548, "mobilenet_v2": 3_504_872,
    "mobilenet_v3_small": 2_542_856, "resnet18": 11_689_512, "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496,
}  # fmt: skip
MORE = {
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


@pytest.mark.parametrize("name", [*PARAMETERS, *MORE])
def test_names_and_numbers_of_parameters(name, request):
    if name in MORE and not request.config.getoption("--full"):
        pytest.skip("part of the full suite: --full")
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

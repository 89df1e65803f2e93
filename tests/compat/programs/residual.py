"""A small ResNet with SGD, momentum, label smoothing, warm-up, averaged weights and state_dict surgery."""

import copy
from collections import OrderedDict

import torch
import torch.nn as nn
from torch import Tensor

from data import begin, images


def conv3x3(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, out_planes, kernel_size=3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    expansion: int = 1

    def __init__(self, inplanes, planes, stride=1):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inplanes, planes, stride), nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv3x3(planes, planes), nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(conv=conv3x3(1, 8), bn=nn.BatchNorm2d(8), relu=nn.ReLU())
        )
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(16, 4)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)

    def forward(self, x):
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


x, y = images(128)
net = begin(ResNet())
for m in net.modules():
    if isinstance(m, nn.BatchNorm2d):
        m.weight.data.fill_(1.0)
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)
schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [
    torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4),
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12),
], milestones=[4])  # fmt: skip
ema = torch.optim.swa_utils.AveragedModel(net, avg_fn=lambda a, p, n: 0.9 * a + 0.1 * p)
for step in range(16):
    at = torch.arange(32) + 32 * (step % 4)
    output = net(x[at].contiguous(memory_format=torch.channels_last))
    loss = criterion(output, y[at])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    ema.update_parameters(net)
    top1 = output.topk(1, 1, True, True)[1].t().eq(y[at].view(1, -1)).float().sum().mul_(100.0 / 32)
    print("resnet %d %.5f %.4f" % (step, loss.item(), schedule.get_last_lr()[0]))
twin = copy.deepcopy(net).eval()
twin.load_state_dict(
    {k.replace("module.", ""): v for k, v in ema.state_dict().items() if k != "n_averaged"}
)
with torch.inference_mode():
    print("resnet ema %.4f" % criterion(twin(x), y).item())

"""Pictures: classifiers, an autoencoder, generators, segmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from . import kind
from .training import again, epochs, training


def pictures(n, channels, size, classes=10):
    return torch.randn(n, channels, size, size), torch.randint(0, classes, (n,))


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.drop1, self.drop2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = self.drop2(F.relu(self.fc1(torch.flatten(self.drop1(x), 1))))
        return F.log_softmax(self.fc2(x), dim=1)


@kind
def digits_cnn():
    model = Digits()
    loader = DataLoader(TensorDataset(*pictures(256, 1, 28)), 64, shuffle=True)
    return training(model, optim.Adadelta(model.parameters()), epochs(loader), F.nll_loss)


@kind
def digits_evaluated():
    model, loader = Digits().eval(), DataLoader(TensorDataset(*pictures(128, 1, 28)), 64)

    def step():
        loss = 0.0
        with torch.no_grad():
            for x, y in loader:
                out = model(x)
                loss += F.nll_loss(out, y, reduction="sum").item()
                out.argmax(dim=1, keepdim=True).eq(y.view(-1, 1)).sum().item()
        return loss

    return step


@kind
def digits_mlp():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Dropout(0.2),
                          nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, 10))  # fmt: skip
    loader = DataLoader(TensorDataset(*pictures(256, 1, 28)), 64, shuffle=True)
    return training(model, optim.Adam(model.parameters()), epochs(loader), nn.CrossEntropyLoss())


@kind
def lenet_of_four():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    optimizer = optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    return training(model, optimizer, again(*pictures(4, 3, 32)), nn.CrossEntropyLoss())


class Block(nn.Module):
    def __init__(self, inside, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, planes, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(planes), nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return F.relu(out)


def residual(width, blocks):
    layers, inside = (
        [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()],
        width,
    )
    for planes, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        for j in range(blocks):
            layers.append(Block(inside, planes, stride if j == 0 else 1))
            inside = planes
    return nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(inside, 10))


@kind
def resnet_20():
    model = residual(16, 3)
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    return training(model, optimizer, again(*pictures(32, 3, 32)), nn.CrossEntropyLoss())


@kind
def resnet_20_channels_last():
    model = residual(16, 3).to(memory_format=torch.channels_last)
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    x, y = pictures(32, 3, 32)
    batches = again(x.contiguous(memory_format=torch.channels_last), y)
    return training(model, optimizer, batches, nn.CrossEntropyLoss())


@kind
def depthwise():
    def part(a, b, stride):
        c = 3 * a
        return nn.Sequential(
            nn.Conv2d(a, c, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU6(True),
            nn.Conv2d(c, c, 3, stride, 1, groups=c, bias=False), nn.BatchNorm2d(c), nn.ReLU6(True),
            nn.Conv2d(c, b, 1, bias=False), nn.BatchNorm2d(b),
        )  # fmt: skip

    model = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), part(16, 24, 2), part(24, 24, 1), part(24, 32, 2),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))  # fmt: skip
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    return training(
        model, optim.RMSprop(model.parameters(), 1e-3), again(*pictures(32, 3, 32)), loss_of
    )


@kind
def variational_autoencoder():
    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.mu, self.logvar = (
                nn.Linear(784, 400),
                nn.Linear(400, 20),
                nn.Linear(400, 20),
            )
            self.b, self.c = nn.Linear(20, 400), nn.Linear(400, 784)

        def forward(self, x):
            h = F.relu(self.a(x))
            mu, logvar = self.mu(h), self.logvar(h)
            std = torch.exp(0.5 * logvar)
            z = mu + torch.randn_like(std) * std
            return torch.sigmoid(self.c(F.relu(self.b(z)))), mu, logvar

    def loss_of(out, x):
        made, mu, logvar = out
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return F.binary_cross_entropy(made, x, reduction="sum") + kld

    model, x = VAE(), torch.rand(128, 784)
    return training(model, optim.Adam(model.parameters()), again(x, x), loss_of)


def adversaries(g, d, noise, real):
    options = {"lr": 2e-4, "betas": (0.5, 0.999)}
    to_g, to_d = optim.Adam(g.parameters(), **options), optim.Adam(d.parameters(), **options)
    loss_of = nn.BCELoss()

    def step():
        n = len(real)
        yes, no = torch.ones(n), torch.zeros(n)
        to_d.zero_grad()
        fake = g(torch.randn(n, *noise))
        lost = loss_of(d(real).view(-1), yes) + loss_of(d(fake.detach()).view(-1), no)
        lost.backward()
        to_d.step()
        to_g.zero_grad()
        loss = loss_of(d(fake).view(-1), yes)
        loss.backward()
        to_g.step()
        return loss.item()

    return step


@kind
def adversarial_mlp():
    def part(a, b, normalize=True):
        norm = [nn.BatchNorm1d(b, 0.8)] if normalize else []
        return [nn.Linear(a, b), *norm, nn.LeakyReLU(0.2, inplace=True)]

    g = nn.Sequential(*part(100, 128, False), *part(128, 256), *part(256, 512), nn.Linear(512, 784), nn.Tanh())  # fmt: skip
    d = nn.Sequential(
        *part(784, 512, False), *part(512, 256, False), nn.Linear(256, 1), nn.Sigmoid()
    )
    return adversaries(g, d, (100,), torch.rand(64, 784))


@kind
def adversarial_cnn():
    def up(a, b, *how):
        return [nn.ConvTranspose2d(a, b, 4, *how, bias=False), nn.BatchNorm2d(b), nn.ReLU(True)]

    def down(a, b):
        return [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2, True)]

    g = nn.Sequential(*up(100, 64, 1, 0), *up(64, 32, 2, 1), *up(32, 16, 2, 1),
                      nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False), nn.Tanh())  # fmt: skip
    d = nn.Sequential(nn.Conv2d(3, 16, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True), *down(16, 32), *down(32, 64),
                      nn.Conv2d(64, 1, 4, 1, 0, bias=False), nn.Sigmoid())  # fmt: skip
    return adversaries(g, d, (100, 1, 1), torch.rand(16, 3, 32, 32))


@kind
def unet():
    def double(a, b):
        return nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(True),
            nn.Conv2d(b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(True),
        )  # fmt: skip

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = double(3, 16), double(16, 32), double(32, 64)
            self.up1, self.d = nn.ConvTranspose2d(64, 32, 2, 2), double(64, 32)
            self.up2, self.e = nn.ConvTranspose2d(32, 16, 2, 2), double(32, 16)
            self.pool, self.out = nn.MaxPool2d(2), nn.Conv2d(16, 2, 1)

        def forward(self, x):
            a = self.a(x)
            b = self.b(self.pool(a))
            x = self.d(torch.cat([b, self.up1(self.c(self.pool(b)))], 1))
            return self.out(self.e(torch.cat([a, self.up2(x)], 1)))

    model = UNet()
    batch = again(torch.randn(2, 3, 64, 64), torch.randint(0, 2, (2, 64, 64)))
    return training(model, optim.RMSprop(model.parameters(), 1e-4, momentum=0.9), batch, nn.CrossEntropyLoss())  # fmt: skip


@kind
def pictures_of_any_size():
    def layer(a, b, stride):
        return nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(True)

    model = nn.Sequential(*layer(3, 16, 1), *layer(16, 32, 2), *layer(32, 32, 1), *layer(32, 64, 2),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))  # fmt: skip
    sizes = torch.randint(28, 60, (40, 2)).tolist()
    batches = [(torch.randn(8, 3, *size), torch.randint(0, 10, (8,))) for size in sizes]
    return training(model, optim.SGD(model.parameters(), 0.01, 0.9), epochs(batches), nn.CrossEntropyLoss())  # fmt: skip

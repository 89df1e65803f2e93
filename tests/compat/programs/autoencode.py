"""A variational autoencoder whose noise is given, and an adversarial pair: two optimizers, detached samples."""

import torch
import torch.utils.data
from torch import nn, optim
from torch.nn import functional as F

from data import RNG, begin, images


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(144, 48)
        self.fc21 = nn.Linear(48, 6)
        self.fc22 = nn.Linear(48, 6)
        self.fc3 = nn.Linear(6, 48)
        self.fc4 = nn.Linear(48, 144)

    def forward(self, x, noise):
        h1 = F.relu(self.fc1(x.view(-1, 144)))
        mu, logvar = self.fc21(h1), self.fc22(h1)
        z = mu + noise * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


def loss_function(recon_x, x, mu, logvar):
    BCE = F.binary_cross_entropy(recon_x, x.view(-1, 144), reduction="sum")
    KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return BCE + KLD


x, _ = images(160)
loader = torch.utils.data.DataLoader(x, batch_size=32)
model = begin(VAE())
optimizer = optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(5):
    for i, data in enumerate(loader):
        noise = torch.Tensor(RNG.standard_normal((len(data), 6)))
        optimizer.zero_grad()
        loss = loss_function(*(lambda r, m, v: (r, data, m, v))(*model(data, noise)))
        loss.backward()
        optimizer.step()
        print(f"vae {epoch}.{i} {loss.item() / len(data):.6f}")

netG = begin(
    nn.Sequential(
        nn.ConvTranspose2d(8, 16, 3, 1, 0, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(True),
        nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(True),
        nn.ConvTranspose2d(8, 1, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
)
netD = begin(
    nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(8, 16, 4, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(16, 1, 3, 1, 0, bias=False),
        nn.Flatten(0),
        nn.Sigmoid(),
    )
)
criterion = nn.BCELoss()
optimizerD = optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizerG = optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
for i, real in enumerate(loader):
    netD.zero_grad()
    label = torch.full((real.size(0),), 1.0, dtype=real.dtype, device=real.device)
    errD_real = criterion(netD(real), label)
    errD_real.backward()
    fake = netG(torch.from_numpy(RNG.standard_normal((real.size(0), 8, 1, 1))).float())
    label.fill_(0.0)
    errD_fake = criterion(netD(fake.detach()), label)
    errD_fake.backward()
    optimizerD.step()
    netG.zero_grad()
    label.fill_(1.0)
    errG = criterion(netD(fake), label)
    errG.backward()
    optimizerG.step()
    print("gan %d %.6f %.6f" % (i, (errD_real + errD_fake).item(), errG.item()))

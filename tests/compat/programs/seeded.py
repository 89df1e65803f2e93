"""A seeded program: PyTorch's initial weights, dropout, noise and order of shuffled batches."""

import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, random_split


def set_seed(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    torch.backends.cudnn.benchmark = False


class Points(Dataset):
    def __init__(self, n):
        self.x = torch.randn(n, 6)
        self.y = (self.x[:, 0] * self.x[:, 1] > 0).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


set_seed(42)
data = Points(96)
train, test = random_split(data, [80, 16])
model = nn.Sequential(
    nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)
)
nn.init.xavier_uniform_(model[3].weight)
nn.init.orthogonal_(model[5].weight)
rnn = nn.LSTM(6, 5, num_layers=2, dropout=0.3)
optimizer = torch.optim.AdamW(list(model.parameters()) + list(rnn.parameters()), lr=1e-2)
for epoch in range(3):
    for x, y in DataLoader(train, batch_size=20, shuffle=True):
        noisy = x + 0.1 * torch.randn_like(x)
        keep = torch.rand(len(x), 1) > 0.1
        hidden, _ = rnn(noisy.unsqueeze(0))
        loss = F.cross_entropy(model(noisy * keep), y) + hidden.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print("seeded %d %.6f" % (epoch, loss.item()))
sample = torch.multinomial(F.softmax(model(test[0][0]), -1), 6, replacement=True)
print("drawn", sample.tolist(), torch.randperm(8).tolist(), torch.randint(0, 9, (4,)).tolist())

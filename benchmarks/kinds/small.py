"""Small networks and tables: where a step is many short calls."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.distributions import Categorical, Normal
from torch.utils.data import DataLoader, TensorDataset

from . import kind
from .training import again, epochs, training


@kind
def tiny_mlp():
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    data = TensorDataset(torch.randn(150, 4), torch.randint(0, 3, (150,)))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return training(model, optimizer, epochs(DataLoader(data, 16, shuffle=True)), nn.CrossEntropyLoss())  # fmt: skip


@kind
def regression_by_hand():
    w, b = torch.zeros(3, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    x = torch.randn(100, 3)
    y = x @ torch.tensor([[1.0], [2.0], [3.0]])

    def step():
        loss = ((x @ w + b - y) ** 2).mean()
        loss.backward()
        with torch.no_grad():
            for p in (w, b):
                p -= 0.1 * p.grad
                p.grad.zero_()
        return loss.item()

    return step


@kind
def policy_gradient():
    model = nn.Sequential(nn.Linear(4, 128), nn.Dropout(0.6), nn.ReLU(), nn.Linear(128, 2), nn.Softmax(dim=1))  # fmt: skip
    optimizer, states = optim.Adam(model.parameters(), lr=1e-2), torch.randn(20, 1, 4).numpy()

    def step():
        logs, returns, total = [], [], 0.0
        for state in states:
            choice = Categorical(model(torch.from_numpy(state)))
            action = choice.sample()
            logs.append(choice.log_prob(action))
            total = action.item() + 0.99 * total
            returns.insert(0, total)
        gains = torch.tensor(returns)
        gains = (gains - gains.mean()) / (gains.std() + 1e-6)
        optimizer.zero_grad()
        loss = torch.cat([-log * gain for log, gain in zip(logs, gains, strict=True)]).sum()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@kind
def proximal_policy():
    def mlp(out):
        return nn.Sequential(nn.Linear(11, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, out))  # fmt: skip

    actor, critic, spread = mlp(3), mlp(1), nn.Parameter(torch.zeros(1, 3))
    params = [*actor.parameters(), *critic.parameters(), spread]
    optimizer = optim.Adam(params, 3e-4, eps=1e-5)
    seen, done, gains = torch.randn(64, 11), torch.randn(64, 3), torch.randn(64)
    before = torch.randn(64) - 4

    def step():
        choice = Normal(actor(seen), spread.exp().expand(64, 3))
        ratio = (choice.log_prob(done).sum(1) - before).exp()
        g = (gains - gains.mean()) / (gains.std() + 1e-8)
        loss = torch.max(-g * ratio, -g * torch.clamp(ratio, 0.8, 1.2)).mean()
        loss = loss + 0.5 * ((critic(seen).view(-1) - gains) ** 2).mean()
        loss = loss - 0.01 * choice.entropy().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 0.5)
        optimizer.step()
        return loss.item()

    return step


@kind
def deep_q():
    def net():
        return nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))  # fmt: skip

    policy, target = net(), net()
    target.load_state_dict(policy.state_dict())
    optimizer = optim.AdamW(policy.parameters(), lr=1e-4, amsgrad=True)
    memory = [
        (torch.randn(1, 4), torch.tensor([[i % 2]]), torch.randn(1, 4), torch.ones(1))
        for i in range(500)
    ]
    rng = random.Random(0)

    def step():
        states, actions, after, rewards = map(torch.cat, zip(*rng.sample(memory, 128), strict=True))
        values = policy(states).gather(1, actions)
        with torch.no_grad():
            best = target(after).max(1).values
        loss = F.smooth_l1_loss(values, (best * 0.99 + rewards).unsqueeze(1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(policy.parameters(), 100)
        optimizer.step()
        mean, now = target.state_dict(), policy.state_dict()
        for k in now:
            mean[k] = now[k] * 0.005 + mean[k] * 0.995
        target.load_state_dict(mean)
        return loss.item()

    return step


@kind
def equation_network():
    model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))  # fmt: skip
    optimizer = optim.Adam(model.parameters(), 1e-3)
    x, t = (torch.rand(200, 1).requires_grad_() for _ in range(2))

    def slope(y, x):
        return torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)[0]

    def step():
        optimizer.zero_grad()
        u = model(torch.cat([x, t], 1))
        ux = slope(u, x)
        loss = ((slope(u, t) + u * ux - 0.01 * slope(ux, x)) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@kind
def flow():
    def net():
        return nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(), nn.Linear(64, 64), nn.LeakyReLU(), nn.Linear(64, 2))  # fmt: skip

    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.scales = nn.ModuleList(net() for _ in range(6))
            self.shifts = nn.ModuleList(net() for _ in range(6))
            self.register_buffer("mask", torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 3))

        def forward(self, x):
            total = x.new_zeros(len(x))
            for scale, shift, mask in zip(self.scales, self.shifts, self.mask, strict=True):
                held = x * mask
                s = torch.tanh(scale(held)) * (1 - mask)
                x = held + (1 - mask) * (x - shift(held)) * torch.exp(-s)
                total = total - s.sum(1)
            return -(Normal(0.0, 1.0).log_prob(x).sum(1) + total).mean()

    model = Flow()
    return training(model, optim.Adam(model.parameters(), 1e-4), again(torch.randn(100, 2)), lambda loss, _: loss)  # fmt: skip


@kind
def recommender():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.users, self.items = nn.Embedding(943, 20), nn.Embedding(1682, 20)
            self.of_user, self.of_item = nn.Embedding(943, 1), nn.Embedding(1682, 1)

        def forward(self, x):
            u, i = x[:, 0], x[:, 1]
            fit = (self.users(u) * self.items(i)).sum(1)
            return fit + self.of_user(u).squeeze(1) + self.of_item(i).squeeze(1)

    model = Model()
    pairs = torch.stack([torch.randint(0, 943, (1000,)), torch.randint(0, 1682, (1000,))], 1)
    loader = DataLoader(TensorDataset(pairs, torch.rand(1000)), 100, shuffle=True)
    optimizer = optim.Adam(model.parameters(), 1e-2, weight_decay=1e-5)
    return training(model, optimizer, epochs(loader), nn.MSELoss())


@kind
def graph_network():
    n = 1000
    edges = torch.sparse_coo_tensor(
        torch.randint(0, n, (2, 5000)), torch.rand(5000), (n, n)
    ).coalesce()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(200, 16), nn.Linear(16, 7)

        def forward(self, x):
            x = F.dropout(F.relu(torch.spmm(edges, self.a(x))), 0.5, self.training)
            return F.log_softmax(torch.spmm(edges, self.b(x)), dim=1)

    model = Model()
    optimizer = optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    return training(model, optimizer, again(torch.rand(n, 200), torch.randint(0, 7, (n,))), F.nll_loss)  # fmt: skip


@kind
def lower_precision():
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))  # fmt: skip
    optimizer = optim.AdamW(model.parameters(), 1e-3)
    x, y = torch.randn(128, 256), torch.randint(0, 10, (128,))

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@kind
def loader_of_tensors():
    data = TensorDataset(torch.randn(1024, 1, 28, 28), torch.randint(0, 10, (1024,)))
    loader = DataLoader(data, 64, shuffle=True)

    def step():
        return sum(x[0, 0, 0, 0].item() for x, _ in loader)

    return step

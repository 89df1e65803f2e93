"""Reinforcement learning, second derivatives and functions of one's own, in the style of small public programs."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd import Function, Variable, grad
from torch.distributions import Categorical, Normal

from data import RNG, begin


class Policy(nn.Module):
    def __init__(self):
        super(Policy, self).__init__()
        self.affine1, self.action_head, self.value_head = (
            nn.Linear(4, 16),
            nn.Linear(16, 3),
            nn.Linear(16, 1),
        )
        self.saved_actions, self.rewards = [], []

    def forward(self, x):
        x = F.relu(self.affine1(x))
        return F.softmax(self.action_head(x), dim=-1), self.value_head(x)


model = begin(Policy())
optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-2)
for episode in range(8):
    state = RNG.standard_normal(4)
    for _ in range(6):
        probs, value = model(torch.from_numpy(state).float())
        m = Categorical(probs)
        action = torch.tensor(int(RNG.randint(3)))
        model.saved_actions.append((m.log_prob(action), value, m.entropy()))
        model.rewards.append(float(action == state.argmax() % 3))
        state = RNG.standard_normal(4)
    R, returns = 0, []
    for r in model.rewards[::-1]:
        R = r + 0.9 * R
        returns.insert(0, R)
    returns = torch.tensor(returns)
    returns = (returns - returns.mean()) / (returns.std() + 1e-6)
    policy_losses, value_losses = [], []
    for (log_prob, value, entropy), R in zip(model.saved_actions, returns):
        policy_losses.append(-log_prob * (R - value.item()) - 0.01 * entropy)
        value_losses.append(F.smooth_l1_loss(value, torch.tensor([R])))
    optimizer.zero_grad()
    loss = torch.stack(policy_losses).sum() + torch.stack(value_losses).sum()
    loss.backward()
    optimizer.step()
    del model.rewards[:], model.saved_actions[:]
    print("policy %d %.5f" % (episode, loss.item()))


class Clamp(Function):
    @staticmethod
    def forward(ctx, i):
        ctx.save_for_backward(i)
        return i.clamp(min=-0.5, max=0.5)

    @staticmethod
    def backward(ctx, grad_output):
        (i,) = ctx.saved_tensors
        return grad_output * (i.abs() <= 0.5).type_as(grad_output)


critic = begin(nn.Sequential(nn.Linear(5, 8), nn.Softplus(), nn.Linear(8, 1)))
x = Variable(torch.FloatTensor(RNG.standard_normal((6, 5)).tolist()), requires_grad=True)
out = critic(Clamp.apply(x))
gradients = grad(
    out,
    x,
    grad_outputs=torch.ones(out.size()),
    create_graph=True,
    retain_graph=True,
    only_inputs=True,
)[0]
penalty = ((gradients.view(6, -1).norm(2, dim=1) - 1) ** 2).mean()
penalty.backward()
print("penalty %.6f %.6f" % (penalty.item(), critic[0].weight.grad.norm().item()))
print(
    "density %.6f"
    % Normal(torch.tensor(0.5), torch.tensor([2.0])).log_prob(torch.tensor(1.5)).item()
)

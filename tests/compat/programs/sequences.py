"""Recurrent networks: cells stepped by hand under LBFGS, and a language model that carries its state on."""

import math

import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim

from data import begin, text


class Sequence(nn.Module):
    def __init__(self):
        super(Sequence, self).__init__()
        self.lstm1 = nn.LSTMCell(1, 8)
        self.lstm2 = nn.LSTMCell(8, 8)
        self.linear = nn.Linear(8, 1)

    def forward(self, input, future=0):
        outputs = []
        h_t = torch.zeros(input.size(0), 8, dtype=torch.double)
        c_t, h_t2, c_t2 = h_t.clone(), h_t.clone(), h_t.clone()
        for input_t in input.split(1, dim=1):
            h_t, c_t = self.lstm1(input_t, (h_t, c_t))
            h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
            output = self.linear(h_t2)
            outputs += [output]
        for _ in range(future):
            h_t, c_t = self.lstm1(output, (h_t, c_t))
            h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
            output = self.linear(h_t2)
            outputs += [output]
        return torch.cat(outputs, dim=1)


wave = torch.from_numpy(np.sin(np.arange(20) / 3.0 + np.arange(6)[:, None]).astype("float64"))
input, target = wave[:, :-1], wave[:, 1:]
seq = begin(Sequence()).double()
criterion = nn.MSELoss()
optimizer = optim.LBFGS(seq.parameters(), lr=0.8, max_iter=5)
for i in range(3):

    def closure():
        optimizer.zero_grad()
        loss = criterion(seq(input), target)
        print("waves", i, "%.6f" % loss.item())
        loss.backward()
        return loss

    optimizer.step(closure)
with torch.no_grad():
    print("waves future %.6f" % seq(input, future=5)[:, -5:].abs().mean().item())


class RNNModel(nn.Module):
    def __init__(self, kind, ntoken, ninp, nhid, nlayers):
        super().__init__()
        self.ntoken, self.nhid, self.nlayers, self.kind = ntoken, nhid, nlayers, kind
        self.drop = nn.Dropout(0.0)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = getattr(nn, kind)(ninp, nhid, nlayers)
        self.decoder = nn.Linear(nhid, ntoken)
        self.decoder.weight = self.encoder.weight

    def forward(self, input, hidden):
        output, hidden = self.rnn(self.drop(self.encoder(input)), hidden)
        decoded = self.decoder(self.drop(output)).view(-1, self.ntoken)
        return torch.log_softmax(decoded, dim=1), hidden

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        zeros = weight.new_zeros(self.nlayers, bsz, self.nhid)
        return (zeros, zeros.clone()) if self.kind == "LSTM" else zeros


def repackage_hidden(h):
    if isinstance(h, torch.Tensor):
        return h.detach()
    return tuple(repackage_hidden(v) for v in h)


def batchify(data, bsz):
    nbatch = data.size(0) // bsz
    return data.narrow(0, 0, nbatch * bsz).view(bsz, -1).t().contiguous()


corpus = batchify(text(800), 8)
for kind in ("LSTM", "GRU"):
    model = begin(RNNModel(kind, 20, 16, 16, 2))
    model.train()
    criterion = nn.NLLLoss()
    hidden = model.init_hidden(8)
    lr = 2.0
    for batch, i in enumerate(range(0, corpus.size(0) - 1, 10)):
        seq_len = min(10, len(corpus) - 1 - i)
        data, targets = corpus[i : i + seq_len], corpus[i + 1 : i + 1 + seq_len].view(-1)
        model.zero_grad()
        hidden = repackage_hidden(hidden)
        output, hidden = model(data, hidden)
        loss = criterion(output, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-lr)
        print("{} {} {:.6f} {:.4f}".format(kind, batch, loss.item(), math.exp(loss.item())))

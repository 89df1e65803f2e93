"""Text and sequences: recurrent networks, transformers, embeddings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn, optim

from . import kind
from .training import again, epochs, training


def words(*size, many=1000):
    return torch.randint(0, many, size)


def recurrent(name):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.encoder = nn.Dropout(0.2), nn.Embedding(1000, 128)
            self.rnn, self.decoder = (
                getattr(nn, name)(128, 128, 2, dropout=0.2),
                nn.Linear(128, 1000),
            )

        def forward(self, x):
            out, _ = self.rnn(self.drop(self.encoder(x)))
            return F.log_softmax(self.decoder(self.drop(out)).view(-1, 1000), dim=1)

    model = Model()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    return training(model, optimizer, again(words(35, 20), words(700)), nn.NLLLoss(), clip=0.25)


@kind
def lstm_language_model():
    return recurrent("LSTM")


@kind
def gru_language_model():
    return recurrent("GRU")


@kind
def names_by_character():
    hidden = nn.Linear(57 + 64, 64)
    out = nn.Linear(64, 18)
    line, label = F.one_hot(words(8, 1, many=57), 57).float(), torch.tensor([3])

    def step():
        h = torch.zeros(1, 64)
        for letter in line:
            h = torch.tanh(hidden(torch.cat((letter, h), 1)))
        loss = F.nll_loss(F.log_softmax(out(h), dim=1), label)
        for p in (*hidden.parameters(), *out.parameters()):
            p.grad = None
        loss.backward()
        for p in (*hidden.parameters(), *out.parameters()):
            p.data.add_(p.grad.data, alpha=-0.005)
        return loss.item()

    return step


class Attention(nn.Module):
    def __init__(self, size, heads, dropout):
        super().__init__()
        self.qkv, self.proj = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.heads, self.dropout = heads, dropout

    def forward(self, x):
        n, t, c = x.size()
        q, k, v = (
            y.view(n, t, self.heads, -1).transpose(1, 2) for y in self.qkv(x).split(c, dim=2)
        )
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return F.dropout(self.proj(y.transpose(1, 2).reshape(n, t, c)), dropout)


class Layer(nn.Module):
    def __init__(self, size, heads, dropout):
        super().__init__()
        self.ln1, self.attn, self.ln2 = nn.LayerNorm(size), Attention(size, heads, dropout), nn.LayerNorm(size)  # fmt: skip
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size), nn.Dropout(dropout))  # fmt: skip

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    def __init__(self, vocabulary, length, layers, heads, size, dropout):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, size), nn.Embedding(length, size)
        self.layers = nn.Sequential(*[Layer(size, heads, dropout) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, vocabulary, bias=False)

    def forward(self, x):
        x = self.tokens(x) + self.places(torch.arange(x.size(1)))
        return self.head(self.norm(self.layers(x)))


def writer(size, dropout):
    model = GPT(65, 64, 4, 4, size, dropout)
    bold = [p for p in model.parameters() if p.dim() >= 2]
    thin = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": bold, "weight_decay": 0.1}, {"params": thin, "weight_decay": 0.0}]
    optimizer = optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))

    def loss_of(logits, y):
        return F.cross_entropy(logits.view(-1, 65), y.view(-1), ignore_index=-1)

    return training(model, optimizer, again(words(12, 64, many=65), words(12, 64, many=65)), loss_of, clip=1.0)  # fmt: skip


@kind
def gpt():
    return writer(128, 0.0)


@kind
def gpt_with_dropout():
    return writer(128, 0.2)


@kind
def gpt_of_48():
    return writer(48, 0.0)


@kind
def gpt_writes():
    model = GPT(65, 64, 4, 4, 128, 0.0).eval()

    @torch.no_grad()
    def step():
        text = torch.zeros(1, 1, dtype=torch.long)
        for _ in range(10):
            logits = model(text)[:, -1, :] / 0.8
            best, _ = torch.topk(logits, 10)
            logits[logits < best[:, [-1]]] = -float("inf")
            text = torch.cat((text, torch.multinomial(F.softmax(logits, dim=-1), 1)), dim=1)
        return float(text.sum())

    return step


@kind
def transformer_encoder():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(1000, 64, padding_idx=0)
            layer = nn.TransformerEncoderLayer(64, 4, 128, 0.1, activation="gelu", batch_first=True)
            self.encoder, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(64, 2)

        def forward(self, x):
            pad = x == 0
            h = self.encoder(self.embedding(x) * math.sqrt(64), src_key_padding_mask=pad)
            h = h.masked_fill(pad.unsqueeze(-1), 0).sum(1) / (~pad).sum(1, keepdim=True)
            return self.out(h)

    model, x = Model(), words(32, 50) + 1
    x = x.clamp(max=999) * (torch.arange(50) < torch.randint(20, 51, (32, 1)))
    return training(model, optim.AdamW(model.parameters(), 1e-3), again(x, words(32, many=2)), nn.CrossEntropyLoss())  # fmt: skip


@kind
def bag_of_words():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.out = nn.EmbeddingBag(5000, 64), nn.Linear(64, 4)

        def forward(self, x):
            return self.out(self.bag(*x))

    model, sizes = Model(), torch.randint(20, 60, (64,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)[:-1]])
    batch = again((words(int(sizes.sum()), many=5000), offsets), words(64, many=4))
    return training(model, optim.SGD(model.parameters(), lr=5.0), batch, nn.CrossEntropyLoss(), clip=0.1)  # fmt: skip


@kind
def word_vectors():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.outside = nn.Embedding(5000, 100), nn.Embedding(5000, 100)

        def forward(self, x):
            word, near, far = x
            v = self.inside(word)
            good = F.logsigmoid((v * self.outside(near)).sum(1))
            bad = F.logsigmoid(-torch.bmm(self.outside(far), v.unsqueeze(2)).squeeze(2)).sum(1)
            return -(good + bad).mean()

    model = Model()
    batch = again((words(128, many=5000), words(128, many=5000), words(128, 5, many=5000)))
    return training(model, optim.Adam(model.parameters(), 1e-3), batch, lambda loss, _: loss)


class TextCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5000, 64)
        self.convs = nn.ModuleList(nn.Conv2d(1, 64, (k, 64)) for k in (3, 4, 5))
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(192, 2)

    def forward(self, x):
        x = self.embedding(x).unsqueeze(1)
        x = [F.relu(conv(x)).squeeze(3) for conv in self.convs]
        x = [F.max_pool1d(y, y.size(2)).squeeze(2) for y in x]
        return self.out(self.drop(torch.cat(x, 1)))


@kind
def text_cnn():
    model = TextCNN()
    batch = again(words(50, 40, many=5000), words(50, many=2))
    return training(model, optim.Adam(model.parameters(), 1e-3), batch, F.cross_entropy)


@kind
def text_cnn_of_any_length():
    model = TextCNN()
    batches = [
        (words(50, n, many=5000), words(50, many=2)) for n in torch.randperm(48).add(20).tolist()
    ]
    return training(model, optim.Adam(model.parameters(), 1e-3), epochs(batches), F.cross_entropy)

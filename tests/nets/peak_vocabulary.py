"""Run as a script: time and peak resident memory (MiB) of a fresh process that clusters 3 of 50,000 words, as JSON."""

import json
import sys
import time

import torch
from torch import nn

import rmtland as rl
from tests.nets.peak_memory import PROC, status

WORDS, WIDTH = (7, 11, 13), 64


class Language(nn.Module):
    """Words that see those before them."""

    def __init__(self, vocabulary):
        super().__init__()
        self.embed, self.mix = nn.Embedding(vocabulary, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary)

    def forward(self, x):
        return self.head(torch.tanh(self.mix(self.embed(x))).cumsum(1))


def source_of(vocabulary, budget, shape=(8, 16)):
    torch.manual_seed(0)
    tokens = torch.randint(vocabulary, shape)
    labels = torch.tensor(WORDS)[torch.arange(tokens.numel()) % 3].reshape(shape)
    return rl.nets.NetworkLogitGradients(Language(vocabulary), tokens, labels, memory_budget=budget * 2**20)


def main(budget, *shape):
    torch.set_num_threads(1)
    rl.clustering(source_of(40, 1, (2, 3)), classes=WORDS)  # imports, thread buffers
    base = status("VmRSS")
    source = source_of(50_000, budget, shape)
    rl.gradient(source)
    (PROC / "clear_refs").write_text("5")  # the high-water mark starts anew
    begun = time.process_time()
    rl.gradient(source)
    gradient, begun = time.process_time() - begun, time.process_time()
    rl.clustering(source, classes=WORDS)
    seconds = time.process_time() - begun
    found = {"D": source.num_parameters, "peak": status("VmHWM") - base, "seconds": seconds, "gradient": gradient}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

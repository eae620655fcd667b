"""Which wordings kept out of training the modern pair's reader knows: `python -m benchmarks.reader_words`.

No picture is made, and nothing of ours is asked. The language model itself says how likely each concept's name is behind
"... is another name for"; how much likelier a wording makes a name than no wording in particular does is what it knows of
it. A wording whose concept is among the first `KNOWN` is one that the reader knows.
"""

import numpy as np
import torch
import typer
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.common import write_result
from training.world import with_article
from unreel import load_judge, load_pair
from unreel.models.shipped import preset_of

PAIR = "embedded:modern"
KNOWN = 3
QUESTIONS = ("{} is another name for", "What is {}? It is")
NOTHING = ("something", "a thing", "an object", "a person")


class Asked:
    """Log-probabilities (concepts,) of every name of a list after a text."""

    def __init__(self, names: list[str], tokenizer: PreTrainedTokenizerBase, reader: PreTrainedModel) -> None:
        self.tokenizer, self.reader = tokenizer, reader
        ids = [tokenizer.encode(f" {name}") for name in names]
        self.ids = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
        self.mask = torch.zeros(self.ids.shape)
        for row, each in enumerate(ids):
            self.ids[row, : len(each)], self.mask[row, : len(each)] = torch.tensor(each), 1

    def __call__(self, text: str) -> torch.Tensor:
        text = text[:1].upper() + text[1:]
        start = self.reader(torch.tensor([self.tokenizer.encode(text)]), use_cache=True)
        cache = start.past_key_values
        cache.batch_repeat_interleave(len(self.ids))
        behind = self.reader(self.ids, past_key_values=cache, use_cache=True).last_hidden_state
        hidden = torch.cat([start.last_hidden_state[:, -1:].expand(len(self.ids), -1, -1), behind[:, :-1]], dim=1)
        tokens = (hidden @ self.reader.get_input_embeddings().weight.T).float().log_softmax(-1)
        return (tokens.gather(-1, self.ids[..., None])[..., 0] * self.mask).sum(1)


@torch.inference_mode()
def main() -> None:
    concepts = load_judge(preset_of(PAIR)["judge"]).world["concepts"]
    model = load_pair(t2v=PAIR).t2i
    names = list(concepts)
    asked = Asked([with_article(concepts[name], name) for name in names], model.tokenizer, model.text_encoder.bfloat16())
    usual = {q: torch.stack([asked(q.format(nothing)) for nothing in NOTHING]).mean(0) for q in QUESTIONS}
    held_out = [(name, wording) for name in names for wording in concepts[name]["held_out"]]
    rank = {}
    for name, wording in tqdm(held_out, desc="asking the reader", mininterval=10):
        named = with_article(concepts[name], wording)
        likelier = torch.stack([asked(q.format(named)) - usual[q] for q in QUESTIONS]).sum(0)
        rank[wording] = int((likelier > likelier[names.index(name)]).sum()) + 1
    ranks = np.array(list(rank.values()))
    write_result(
        "reader_words",
        {
            "known": {str(k): round(float((ranks <= k).mean()), 4) for k in (1, KNOWN, 10)},
            "concepts": len(names),
            "wordings": len(ranks),
            "rank": rank,
        },
    )


if __name__ == "__main__":
    typer.run(main)

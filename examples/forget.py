# %% [markdown]
# # Make a text-to-video model forget
#
# Everything runs on the *embedded pair*, a tiny text-to-image and text-to-video model that ship with unreel, so no card
# is needed: a minute or two on two CPU cores. With your own model, give `load_pair` its folder or hub id:
# `load_pair(t2v="path/to/your/video-model")`.
#
# This notebook is made from `examples/forget.py` by `make notebook`, and run by the tests.

# %%
import numpy as np
from IPython.display import display
from PIL import Image

from unreel import attack, evaluate, generate, load_judge, load_pair, unlearn

pair = load_pair()
judge = load_judge("embedded")


def show(*videos: np.ndarray) -> None:
    """Every video, (frames, height, width, 3) uint8, as a row of eight of its frames."""
    rows = [np.concatenate(list(video[:: max(1, len(video) // 8)][:8]), axis=1) for video in videos]
    display(Image.fromarray(np.concatenate(rows)))


# %% [markdown]
# ## Forget
#
# The method is *text ablation*: only the text encoder changes, and no image is needed. What comes instead was chosen for
# you; `Concept("Tokyo Tower", anchor="a lighthouse")` chooses it. Every erasure is checked on sentences it was not
# learned from before you get it:

# %%
erasure = unlearn("Tokyo Tower", pair)
print(erasure.provenance["parts"][0]["anchor"], "comes instead;", f"{erasure.nbytes / 1e6:.2f} MB")
print({name: round(value, 3) for name, value in erasure.provenance["check"].items() if isinstance(value, float)})

# %% [markdown]
# ## Look
#
# The same prompts and seeds, first without the erasure and then with it. `on` puts it on for as long as the block lasts;
# afterwards the original weights are there again, bit for bit.

# %%
prompts = ["a bouncing tokyo tower on a blue background", "a cat on a green background"]
without = generate(pair.t2v, prompts, seeds=[1, 2], settings=pair.settings)
with erasure.on(pair.t2v) as pipeline:
    edited = generate(pipeline, prompts, seeds=[1, 2], settings=pair.settings)
for before, after in zip(without, edited, strict=True):
    show(before, after)

# %% [markdown]
# ## Did it work, and what else broke?
#
# Prompts that name the concept, and prompts for what the model takes to be nearest. The judge is a classifier that was
# trained for this world; every figure comes with a 95 % interval. Four videos a group are few, so the intervals are wide:
# `unreel evaluate` makes 50 a group of seven.

# %%
run = evaluate(pair.video, erasure, judge, videos=4, groups=["explicit", "neighbours"])
for what, metric, group in (
    ("Tokyo Tower seen", "concept_found", "explicit"),
    ("neighbours seen", "label_found", "neighbours"),
):
    figure = run.figure(metric, group)
    print(f"{what}: {figure.original} of videos without, {figure.edited} with")

# %% [markdown]
# ## Can it be brought back?
#
# One of the attacks, three cases, one video each; the same is done to the original model, so that you see what an attack
# is worth.

# %%
attacked = attack(pair, erasure, judge, attacks=["synonyms"], cases=3, budgets=[1])
for name, outcome in attacked.document()["attacks"].items():
    edited, original = (outcome[arm]["1"]["value"] for arm in ("edited", "original"))
    print(f"{name}: brings it back in {edited:.0%} of the cases, and shows it in {original:.0%} without the erasure")

# %% [markdown]
# ## Keep it
#
# A folder with the weights that changed, a record of how they came about and a model card. It goes onto every model that
# shares the text encoder: `load_intervention(folder).apply(pipeline)`.

# %%
print(erasure.save_pretrained("tokyo-tower", overwrite=True))

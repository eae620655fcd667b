"""The tiny pipelines themselves: that the real classes run on them, and what other tests rely on."""

import pytest
import torch
from conftest import same, weights
from pipelines import CALLS, ENCODES, PIPELINES, sd2
from transformers import Qwen2_5_VLForConditionalGeneration

BUILDERS = PIPELINES | {"StableDiffusion2Pipeline": sd2}
SHARED = {
    "CLIP-L": "StableDiffusion AnimateDiff StableDiffusionXL AnimateDiffSDXL Flux "
    "HunyuanVideo:2 Kandinsky5T2I:2 Kandinsky5T2V:2",
    "OpenCLIP ViT-H": "StableDiffusion2 TextToVideoSD",
    "OpenCLIP bigG": "StableDiffusionXL:2 AnimateDiffSDXL:2 StableDiffusion3:2",
    "T5": "PixArtAlpha PixArtSigma StableDiffusion3:3 Flux:2 CogVideoX LTX Mochi Latte Allegro",
    "UMT5": "Wan SkyReelsV2 SkyReelsV2DiffusionForcing Helios",
    "Gemma 2": "Sana SanaSprint SanaVideo",
    "Qwen2.5-VL": "HunyuanImage HunyuanVideo15 Kandinsky5T2I Kandinsky5T2V",
    "ByT5": "HunyuanImage:2 HunyuanVideo15:2",
}


@pytest.fixture(scope="module", params=BUILDERS)
def pipeline(request):
    return BUILDERS[request.param]()


def encode(pipeline, prompt):
    return pipeline.encode_prompt(prompt, **ENCODES.get(type(pipeline).__name__, {}))


def latents(pipeline, prompt):
    generator = torch.Generator("cpu").manual_seed(0)
    arguments = {"num_inference_steps": 2, "output_type": "latent", "generator": generator}
    return pipeline(prompt=prompt, **arguments, **CALLS[type(pipeline).__name__])[0]


def test_prompt_reaches_the_latents(pipeline):
    cat, dog = (latents(pipeline, f"a photo of a {name}") for name in ("cat", "dog"))
    assert cat.isfinite().all() and dog.isfinite().all()
    assert not torch.equal(cat, dog)


@pytest.mark.parametrize("group", SHARED)
def test_encoders_and_tokenizers_are_shared(group):
    found = []
    for member in SHARED[group].split():
        name, _, number = member.partition(":")
        parts, end = BUILDERS[name + "Pipeline"]().components, "_" + number if number else ""
        encoder, tokenizer = parts["text_encoder" + end], parts["tokenizer" + end]
        if isinstance(encoder, Qwen2_5_VLForConditionalGeneration):
            encoder = encoder.model.language_model  # all of it that some of these pipelines have
        found.append((weights(encoder), getattr(tokenizer, "tokenizer", tokenizer).get_vocab()))
    first_weights, first_vocabulary = found[0]
    assert all(same(first_weights, others) and vocabulary == first_vocabulary for others, vocabulary in found)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "mask", "after"),
    [
        ("HunyuanVideoPipeline", 2, 1),
        ("HunyuanVideo15Pipeline", 1, 5),
        ("HunyuanImagePipeline", 1, 1),
        ("Kandinsky5T2VPipeline", 2, 1),
        ("Kandinsky5T2IPipeline", 2, 1),
    ],
)
def test_instruction_is_cut_off_to_the_token(name, mask, after):
    """Left are the prompt's five words, one token each, and what the template puts after them."""
    counted = encode(BUILDERS[name](), "a photo of a cat")[mask]
    assert (counted[-1] if "Kandinsky" in name else counted.sum()) == 5 + after  # Kandinsky gives sums, the others a mask

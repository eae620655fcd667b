import pytest
import torch
from pipelines import CALLS, ENCODES, PIPELINES


@pytest.fixture(scope="module", params=PIPELINES)
def pipeline(request):
    return PIPELINES[request.param]()


def embeddings(pipeline, prompt):
    encoded = pipeline.encode_prompt(prompt, **ENCODES.get(type(pipeline).__name__, {}))
    return [tensor for tensor in encoded if tensor is not None]


@torch.no_grad()
def test_encode_prompt_tells_two_prompts_apart(pipeline):
    cat, dog = (embeddings(pipeline, f"a photo of a {name}") for name in ("cat", "dog"))
    assert all(tensor.isfinite().all() for tensor in cat + dog)
    assert not torch.equal(cat[0], dog[0])


def test_runs(pipeline):
    generator = torch.Generator("cpu").manual_seed(0)
    arguments = CALLS[type(pipeline).__name__]
    latents = pipeline(
        prompt="a photo of a cat", num_inference_steps=2, output_type="latent", generator=generator, **arguments
    )[0]
    assert latents.isfinite().all()

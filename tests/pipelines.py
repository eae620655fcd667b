"""Tiny pipelines of every diffusers class that is supported, with random weights, in memory.

Widths and depths are small, everything a pipeline computes from the prompt is not: tokenizers mark words, pad and add
special tokens as the real ones do, and the instructions that some pipelines put before the prompt have as many tokens as
with the real tokenizer, because the pipeline cuts off that number. A text encoder is the same in all pipelines that use it.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import diffusers
import torch
from diffusers import (
    AdaptiveProjectedMixGuidance,
    AllegroPipeline,
    AllegroTransformer3DModel,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanImage,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
    ClassifierFreeGuidance,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    HeliosPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5T2IPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    LattePipeline,
    LatteTransformer3DModel,
    LTXConditionPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    MotionAdapter,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLProcessor,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from unreel import TextAblationConfig
from unreel.models.pair import Pair, Settings, VideoModel, settings_of

TEXT = """
a an the of in on at with and or by to from near under over is are not no this that one two three
photo photograph picture image video clip footage film movie scene painting drawing sketch render style art artwork
cat kitten cats dog puppy dogs owl bird horse fish tiger lion bear rabbit fox wolf animal pet feline person man woman child
car truck bus train plane boat bicycle vehicle road street city castle tower bridge house church building temple palace
tokyo paris london rome eiffel big ben landmark mountain forest river beach sea sky sun moon star tree flower garden grass
apple banana bread cake pizza cup chair table lamp clock book phone guitar piano ball hat shoe gun knife
red green blue yellow black white orange purple small large old new bright dark golden wooden beautiful
ink oil watercolor pencil cartoon anime pixel gogh van monet picasso realistic portrait landscape
running walking jumping dancing spinning sitting sleeping flying swimming standing moving playing eating slowly fast
nude naked violence blood happy sad something thing object
"""
WORDS = TEXT.split()
WIDTH, CLIP_WIDTH = 32, 16  # SD3 puts two CLIP encoders side by side and fills up to the width of T5
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def learn(texts: Iterable[str], splitter: Any, alphabet: list[str] = BYTES, suffix: str = "") -> tuple[list, list]:
    """Vocabulary and merges that make one token of every piece the splitter finds in the texts."""
    tokenizer = Tokenizer(BPE(end_of_word_suffix=suffix))
    tokenizer.pre_tokenizer = splitter
    letters = list(dict.fromkeys([*alphabet, *(letter + suffix for letter in alphabet)]))
    # Letters not given as special would be numbered in no fixed order, which decides between merges that are as frequent.
    trainer = BpeTrainer(vocab_size=10**6, special_tokens=letters, end_of_word_suffix=suffix, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    return list(dict.fromkeys([*letters, *(left + right for left, right in merges)])), merges


def with_words(*templates: str) -> list[str]:
    """The templates without their special tokens, and every word as it is at the start of a text and after a space."""
    parts = [part for template in templates for part in re.split(r"<\|\w+\|>", template)]
    return [*parts, *WORDS, *(" " + word for word in WORDS)]


def default(function: Callable, argument: str) -> Any:
    return inspect.signature(function).parameters[argument].default


def numbered(tokens: Iterable[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def clip_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    tokens, merges = learn(WORDS, pre_tokenizers.WhitespaceSplit(), suffix="</w>")
    vocab = numbered([*tokens, "<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    special = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    words, letters = ["▁" + word for word in WORDS], ["▁", *map(chr, range(33, 127))]
    vocab = [*special, *((word, -1.0) for word in words), *((letter, -10.0) for letter in letters)]
    return T5Tokenizer(vocab=vocab, model_max_length=512)


def qwen_tokenizer() -> Qwen2Tokenizer:
    nothing = [None] * 7
    video = Kandinsky5T2VPipeline(*nothing).prompt_template
    texts = with_words(
        HunyuanImagePipeline(*nothing).prompt_template_encode,
        Kandinsky5T2IPipeline(*nothing).prompt_template,
        re.sub("sc(?=ren )|dynam(?=ism)|post(?=proc)", r"\g<0>\n", video),  # two tokens each with the real one
        default(HunyuanVideo15Pipeline._get_mllm_prompt_embeds, "system_message"),
        "system\nuser\nassistant\n",
    )
    tokens, merges = learn(texts, Qwen2Tokenizer().backend_tokenizer.pre_tokenizer)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    turns = "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}<|im_end|>\n{% endfor %}"
    return Qwen2Tokenizer(
        vocab=numbered([*tokens, *special]),
        merges=merges,
        eos_token="<|im_end|>",
        additional_special_tokens=special[1:],
        model_max_length=131072,
        chat_template=turns + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 3's, which marks words as GPT-2 does and not as Llama 2 does; padded on the right, as HunyuanVideo's is."""
    splitter = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer  # differs from Llama 3's in long numbers only
    tokens, merges = learn(with_words(DEFAULT_PROMPT_TEMPLATE["template"]), splitter)
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<pad>"]
    vocab = numbered([*tokens, *special])
    backend = Tokenizer(BPE(vocab, merges))
    backend.pre_tokenizer, backend.decoder = splitter, decoders.ByteLevel()
    begin, end, *others, pad = special
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, vocab[begin])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        pad_token=pad,
        additional_special_tokens=others,
        padding_side="right",
        model_max_length=256,
    )


def gemma_tokenizer() -> GemmaTokenizer:
    image, video = (default(kind.__call__, "complex_human_instruction") for kind in (SanaPipeline, SanaVideoPipeline))
    texts = [text.replace(" ", "▁") for text in with_words(*image, *video)]
    splitter = pre_tokenizers.Split(Regex(r"▁?[A-Za-z]+|▁?[^▁A-Za-z]"), "isolated")
    tokens, merges = learn(texts, splitter, ["▁", "\n", *map(chr, range(33, 127))])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = numbered([*special, *fallback, *tokens])
    return GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True, model_max_length=8192)


class TextProcessor(Qwen2VLProcessor):
    """The processor without its part for pictures, which needs torchvision and is not called for a prompt."""

    def __init__(self, tokenizer: Qwen2Tokenizer, chat_template: str | None = None):
        ProcessorMixin.__init__(self, tokenizer, chat_template=chat_template)


def make(kind: Callable, *args: Any, **config: Any) -> torch.nn.Module:
    """A part with random weights; each is seeded anew, so that it does not depend on the pipeline's other parts."""
    torch.manual_seed(0)
    return kind(*args, **config).eval()


def assemble(kind: type[DiffusionPipeline], **parts: Any) -> DiffusionPipeline:
    pipeline = kind(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def clip_config(tokenizer: CLIPTokenizer, **config: Any) -> CLIPTextConfig:
    shape = {
        "hidden_size": CLIP_WIDTH,
        "intermediate_size": 32,
        "projection_dim": CLIP_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": tokenizer.model_max_length,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextConfig(**(shape | config))


def clip_l(number: str = "") -> dict[str, Any]:
    tokenizer = clip_tokenizer()
    return {"tokenizer" + number: tokenizer, "text_encoder" + number: make(CLIPTextModel, clip_config(tokenizer))}


def open_clip_h() -> dict[str, Any]:
    tokenizer = clip_tokenizer(pad="!")
    config = clip_config(tokenizer, hidden_act="gelu", num_hidden_layers=2)
    return {"tokenizer": tokenizer, "text_encoder": make(CLIPTextModel, config)}


def open_clip_g() -> dict[str, Any]:
    tokenizer = clip_tokenizer(pad="!")
    config = clip_config(tokenizer, hidden_act="gelu", num_hidden_layers=4)
    return {"tokenizer_2": tokenizer, "text_encoder_2": make(CLIPTextModelWithProjection, config)}


# T5 v1.1, as in all of these pipelines that have a T5.
T5_SHAPE = {
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 3,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
}


def t5(number: str = "") -> dict[str, Any]:
    tokenizer = t5_tokenizer()
    encoder = make(T5EncoderModel, T5Config(vocab_size=len(tokenizer), **T5_SHAPE))
    return {"tokenizer" + number: tokenizer, "text_encoder" + number: encoder}


def umt5() -> dict[str, Any]:
    tokenizer = t5_tokenizer()
    encoder = make(UMT5EncoderModel, UMT5Config(vocab_size=len(tokenizer), **T5_SHAPE))
    return {"tokenizer": tokenizer, "text_encoder": encoder}


def llama() -> dict[str, Any]:
    tokenizer = llama_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return {"tokenizer": tokenizer, "text_encoder": make(LlamaModel, config)}


def gemma() -> dict[str, Any]:
    tokenizer = gemma_tokenizer()
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return {"tokenizer": tokenizer, "text_encoder": make(Gemma2Model, config)}


def qwen() -> dict[str, Any]:
    tokenizer = qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    image, video, start, end = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names)
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision | {"fullatt_block_indexes": [0]},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return {"tokenizer": tokenizer, "text_encoder": make(Qwen2_5_VLForConditionalGeneration, config)}


def byt5() -> dict[str, Any]:
    tokenizer = ByT5Tokenizer()
    encoder = make(T5EncoderModel, T5Config(vocab_size=len(tokenizer), **T5_SHAPE))
    return {"tokenizer_2": tokenizer, "text_encoder_2": encoder}


def vae(blocks: int = 2, **config: Any) -> AutoencoderKL:
    return make(
        AutoencoderKL,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8,) * blocks,
        norm_num_groups=4,
        **config,
    )


def unet(width: int, **config: Any) -> UNet2DConditionModel:
    shape = {
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "cross_attention_dim": width,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return make(UNet2DConditionModel, **(shape | config))


def motion_adapter(**config: Any) -> MotionAdapter:
    return make(
        MotionAdapter,
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
        **config,
    )


def ddim(**config: Any) -> DDIMScheduler:
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, **config)


def stable_diffusion(denoiser: UNet2DConditionModel, scheduler: DDIMScheduler, **text: Any) -> DiffusionPipeline:
    no_checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return assemble(StableDiffusionPipeline, **text, unet=denoiser, vae=vae(), scheduler=scheduler, **no_checker)


def sd1() -> DiffusionPipeline:
    return stable_diffusion(unet(CLIP_WIDTH), ddim(steps_offset=1, set_alpha_to_one=False), **clip_l())


def sd2() -> DiffusionPipeline:
    """Its class is that of Stable Diffusion 1, so it is not in the table below."""
    scheduler = ddim(steps_offset=1, set_alpha_to_one=False, prediction_type="v_prediction")
    return stable_diffusion(unet(CLIP_WIDTH, use_linear_projection=True), scheduler, **open_clip_h())


def animatediff() -> DiffusionPipeline:
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False, steps_offset=1)
    return assemble(
        AnimateDiffPipeline,
        **clip_l(),
        unet=unet(CLIP_WIDTH),
        motion_adapter=motion_adapter(),
        vae=vae(),
        scheduler=scheduler,
    )


def sdxl_parts() -> dict[str, Any]:
    denoiser = unet(
        2 * CLIP_WIDTH,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + CLIP_WIDTH,
    )
    return clip_l() | open_clip_g() | {"unet": denoiser, "vae": vae(), "scheduler": ddim(steps_offset=1)}


def sdxl() -> DiffusionPipeline:
    return assemble(StableDiffusionXLPipeline, **sdxl_parts(), add_watermarker=False)


def animatediff_sdxl() -> DiffusionPipeline:
    adapter = motion_adapter(use_motion_mid_block=False)
    return assemble(AnimateDiffSDXLPipeline, **sdxl_parts(), motion_adapter=adapter)


def text_to_video_sd() -> DiffusionPipeline:
    denoiser = make(
        UNet3DConditionModel,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=CLIP_WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return assemble(TextToVideoSDPipeline, **open_clip_h(), unet=denoiser, vae=vae(), scheduler=ddim(steps_offset=1))


def cogvideox() -> DiffusionPipeline:
    denoiser = make(
        CogVideoXTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        use_rotary_positional_embeddings=True,
    )
    autoencoder = make(
        AutoencoderKLCogVideoX, block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    return assemble(CogVideoXPipeline, **t5(), transformer=denoiser, vae=autoencoder, scheduler=scheduler)


def ltx(kind: type[DiffusionPipeline] = LTXPipeline) -> DiffusionPipeline:
    denoiser = make(
        LTXVideoTransformer3DModel,
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=WIDTH,
    )
    autoencoder = make(
        AutoencoderKLLTXVideo,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    shifting = {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024}
    # The second class brings timesteps of its own.
    options = shifting | {"shift_terminal": 0.1} if kind is LTXPipeline else {}
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    return assemble(kind, **t5(), transformer=denoiser, vae=autoencoder, scheduler=scheduler)


def mochi() -> DiffusionPipeline:
    denoiser = make(
        MochiTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
    )
    autoencoder = make(
        AutoencoderKLMochi,
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return assemble(
        MochiPipeline,
        **t5(),
        transformer=denoiser,
        vae=autoencoder,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
    )


def latte() -> DiffusionPipeline:
    denoiser = make(
        LatteTransformer3DModel,
        sample_size=8,
        num_layers=1,
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        video_length=1,
    )
    return assemble(LattePipeline, **t5(), transformer=denoiser, vae=vae(), scheduler=ddim())


def allegro() -> DiffusionPipeline:
    denoiser = make(
        AllegroTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=2,
        sample_height=2,
        sample_frames=2,
        caption_channels=WIDTH,
    )
    autoencoder = make(AutoencoderKLAllegro, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2)
    autoencoder.kernel, autoencoder.stride = (8, 32, 32), (4, 16, 16)  # of its tiles; what they do not cover stays black
    scheduler = EulerAncestralDiscreteScheduler()
    return assemble(AllegroPipeline, **t5(), transformer=denoiser, vae=autoencoder, scheduler=scheduler)


def wan_vae() -> AutoencoderKLWan:
    return make(AutoencoderKLWan, base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def flow_unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


# The configuration of Wan's network and of those made after it.
OF_WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": WIDTH,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}


def wan() -> DiffusionPipeline:
    denoiser = make(
        WanTransformer3DModel,
        **OF_WAN,
        rope_max_seq_len=32,
    )
    return assemble(WanPipeline, **umt5(), transformer=denoiser, vae=wan_vae(), scheduler=flow_unipc())


def skyreels_v2(kind: type[DiffusionPipeline] = SkyReelsV2Pipeline) -> DiffusionPipeline:
    denoiser = make(
        SkyReelsV2Transformer3DModel,
        **OF_WAN,
        rope_max_seq_len=32,
        inject_sample_info=kind is not SkyReelsV2Pipeline,  # frames a second, as its smallest checkpoint
    )
    return assemble(kind, **umt5(), transformer=denoiser, vae=wan_vae(), scheduler=flow_unipc())


def helios() -> DiffusionPipeline:
    denoiser = make(
        HeliosTransformer3DModel,
        **OF_WAN,
        rope_dim=(4, 4, 4),
    )
    scheduler = HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True)
    return assemble(HeliosPipeline, **umt5(), transformer=denoiser, vae=wan_vae(), scheduler=scheduler)


def hunyuan_vae() -> AutoencoderKLHunyuanVideo:
    return make(
        AutoencoderKLHunyuanVideo,
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )


def hunyuan_video() -> DiffusionPipeline:
    denoiser = make(
        HunyuanVideoTransformer3DModel,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        rope_axes_dim=(2, 4, 4),
    )
    parts = llama() | clip_l("_2")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return assemble(HunyuanVideoPipeline, **parts, transformer=denoiser, vae=hunyuan_vae(), scheduler=scheduler)


def flow_dpm() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def sana_video() -> DiffusionPipeline:
    denoiser = make(
        SanaVideoTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        rope_max_seq_len=32,
    )
    return assemble(SanaVideoPipeline, **gemma(), transformer=denoiser, vae=wan_vae(), scheduler=flow_dpm())


def hunyuan_video15() -> DiffusionPipeline:
    denoiser = make(
        HunyuanVideo15Transformer3DModel,
        in_channels=4 + 4 + 1,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    autoencoder = make(
        AutoencoderKLHunyuanVideo15,
        latent_channels=4,
        block_out_channels=(16, 16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    parts = qwen() | byt5()
    parts["text_encoder"] = parts["text_encoder"].model.language_model
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    guider = ClassifierFreeGuidance(guidance_scale=6.0)
    parts |= {"transformer": denoiser, "vae": autoencoder, "scheduler": scheduler, "guider": guider}
    return assemble(HunyuanVideo15Pipeline, **parts)


def kandinsky_parts() -> dict[str, Any]:
    denoiser = make(
        Kandinsky5Transformer3DModel,
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=CLIP_WIDTH,
        time_dim=32,
        model_dim=24,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 4, 4),
    )
    for weight in denoiser.parameters():
        if not weight.any():  # modulation starts as zeros, through which no prompt reaches the latents
            torch.nn.init.normal_(weight, std=0.1)
    parts = qwen() | clip_l("_2")
    parts["tokenizer"] = TextProcessor(parts["tokenizer"])
    return parts | {"transformer": denoiser, "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0)}


def kandinsky5_video() -> DiffusionPipeline:
    return assemble(Kandinsky5T2VPipeline, **kandinsky_parts(), vae=hunyuan_vae())


def kandinsky5_image() -> DiffusionPipeline:
    pipeline = assemble(Kandinsky5T2IPipeline, **kandinsky_parts(), vae=vae(blocks=4))  # eight to one, which is fixed
    pipeline.resolutions = [(32, 32)]  # any other size is brought to the nearest of these, none of them small
    return pipeline


def sd3() -> DiffusionPipeline:
    denoiser = make(
        SD3Transformer2DModel,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=2 * CLIP_WIDTH,
        pos_embed_max_size=16,
    )
    tokenizer = clip_tokenizer()
    first = {"tokenizer": tokenizer, "text_encoder": make(CLIPTextModelWithProjection, clip_config(tokenizer))}
    parts = first | open_clip_g() | t5("_3")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return assemble(
        StableDiffusion3Pipeline,
        **parts,
        transformer=denoiser,
        vae=vae(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=scheduler,
    )


def flux() -> DiffusionPipeline:
    denoiser = make(
        FluxTransformer2DModel,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    return assemble(
        FluxPipeline,
        **clip_l(),
        **t5("_2"),
        transformer=denoiser,
        vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


def pixart(kind: type[DiffusionPipeline]) -> DiffusionPipeline:
    denoiser = make(
        PixArtTransformer2DModel,
        sample_size=8,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        use_additional_conditions=False,
    )
    return assemble(kind, **t5(), transformer=denoiser, vae=vae(), scheduler=DPMSolverMultistepScheduler())


def pixart_alpha() -> DiffusionPipeline:
    return pixart(PixArtAlphaPipeline)


def pixart_sigma() -> DiffusionPipeline:
    return pixart(PixArtSigmaPipeline)


def sana_parts(**config: Any) -> dict[str, Any]:
    denoiser = make(
        SanaTransformer2DModel,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        **config,
    )
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {
            "block_types": ("ResBlock", "EfficientViTBlock"),
            "block_out_channels": (8, 8),
            "layers_per_block": (1, 1),
            "qkv_multiscales": ((), (5,)),
        }.items()
    }
    autoencoder = make(AutoencoderDC, latent_channels=4, attention_head_dim=2, scaling_factor=0.41407, **sides)
    return gemma() | {"transformer": denoiser, "vae": autoencoder}


def sana() -> DiffusionPipeline:
    return assemble(SanaPipeline, **sana_parts(), scheduler=flow_dpm())


def sana_sprint() -> DiffusionPipeline:
    parts = sana_parts(guidance_embeds=True, qk_norm="rms_norm_across_heads", timestep_scale=1000.0)
    return assemble(SanaSprintPipeline, **parts, scheduler=SCMScheduler())


def hunyuan_image() -> DiffusionPipeline:
    denoiser = make(
        HunyuanImageTransformer2DModel,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        rope_axes_dim=(4, 4),
    )
    autoencoder = make(
        AutoencoderKLHunyuanImage,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32, 32),
        layers_per_block=1,
        spatial_compression_ratio=4,
        sample_size=32,
        scaling_factor=0.75289,
    )
    return assemble(
        HunyuanImagePipeline,
        **qwen(),
        **byt5(),
        transformer=denoiser,
        vae=autoencoder,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=AdaptiveProjectedMixGuidance(),
    )


PIPELINES: dict[str, Callable[[], DiffusionPipeline]] = {
    "AnimateDiffPipeline": animatediff,
    "TextToVideoSDPipeline": text_to_video_sd,
    "AnimateDiffSDXLPipeline": animatediff_sdxl,
    "CogVideoXPipeline": cogvideox,
    "LTXPipeline": ltx,
    "LTXConditionPipeline": partial(ltx, LTXConditionPipeline),
    "WanPipeline": wan,
    "MochiPipeline": mochi,
    "LattePipeline": latte,
    "AllegroPipeline": allegro,
    "HunyuanVideoPipeline": hunyuan_video,
    "SanaVideoPipeline": sana_video,
    "HunyuanVideo15Pipeline": hunyuan_video15,
    "Kandinsky5T2VPipeline": kandinsky5_video,
    "SkyReelsV2Pipeline": skyreels_v2,
    "SkyReelsV2DiffusionForcingPipeline": partial(skyreels_v2, SkyReelsV2DiffusionForcingPipeline),
    "HeliosPipeline": helios,
    "StableDiffusionPipeline": sd1,
    "StableDiffusionXLPipeline": sdxl,
    "StableDiffusion3Pipeline": sd3,
    "FluxPipeline": flux,
    "PixArtAlphaPipeline": pixart_alpha,
    "PixArtSigmaPipeline": pixart_sigma,
    "SanaPipeline": sana,
    "SanaSprintPipeline": sana_sprint,
    "HunyuanImagePipeline": hunyuan_image,
    "Kandinsky5T2IPipeline": kandinsky5_image,
}


def build(name: str) -> DiffusionPipeline:
    """One of PIPELINES, with random numbers in place of weights that start as zeros, through which no text reaches the
    output.
    """
    pipeline = PIPELINES[name]()
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return pipeline


# The arguments of a call: the smallest sizes, and one frame, which all video pipelines take.
CALLS: dict[str, dict[str, Any]] = {
    "AnimateDiffPipeline": {"height": 16, "width": 16, "num_frames": 1},
    "TextToVideoSDPipeline": {"height": 16, "width": 16, "num_frames": 1},
    "AnimateDiffSDXLPipeline": {"height": 16, "width": 16, "num_frames": 1},
    "CogVideoXPipeline": {"height": 16, "width": 16, "num_frames": 1},
    "LTXPipeline": {"height": 32, "width": 32, "num_frames": 1},
    "LTXConditionPipeline": {"height": 32, "width": 32, "num_frames": 1},
    "WanPipeline": {"height": 16, "width": 16, "num_frames": 1},
    "MochiPipeline": {"height": 16, "width": 16, "num_frames": 1},
    "LattePipeline": {"height": 16, "width": 16, "video_length": 1, "clean_caption": False},
    "AllegroPipeline": {"height": 32, "width": 32, "num_frames": 1, "clean_caption": False},
    "HunyuanVideoPipeline": {"height": 16, "width": 16, "num_frames": 1},
    "SanaVideoPipeline": {"height": 32, "width": 32, "frames": 1, "use_resolution_binning": False},
    "HunyuanVideo15Pipeline": {"height": 16, "width": 16, "num_frames": 1},
    "Kandinsky5T2VPipeline": {"height": 32, "width": 32, "num_frames": 1},
    "SkyReelsV2Pipeline": {"height": 16, "width": 16, "num_frames": 1},
    "SkyReelsV2DiffusionForcingPipeline": {"height": 16, "width": 16, "num_frames": 1},
    "HeliosPipeline": {"height": 16, "width": 16, "num_frames": 1},
    "StableDiffusionPipeline": {"height": 16, "width": 16},
    "StableDiffusionXLPipeline": {"height": 16, "width": 16},
    "StableDiffusion3Pipeline": {"height": 16, "width": 16},
    "FluxPipeline": {"height": 16, "width": 16},
    "PixArtAlphaPipeline": {"height": 16, "width": 16, "use_resolution_binning": False, "clean_caption": False},
    "PixArtSigmaPipeline": {"height": 16, "width": 16, "use_resolution_binning": False, "clean_caption": False},
    "SanaPipeline": {"height": 32, "width": 32, "use_resolution_binning": False},
    "SanaSprintPipeline": {"height": 32, "width": 32, "use_resolution_binning": False},
    "HunyuanImagePipeline": {"height": 16, "width": 16},
    "Kandinsky5T2IPipeline": {"height": 32, "width": 32},
}

# Frames to ask for; pipelines that are not listed make any odd number.
FRAMES = {"CogVideoXPipeline": 9, "LTXPipeline": 9, "LTXConditionPipeline": 9, "MochiPipeline": 7}

# The arguments that encode_prompt needs besides the prompt.
_GUIDED = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
ENCODES: dict[str, dict[str, Any]] = {
    "AnimateDiffPipeline": _GUIDED,
    "TextToVideoSDPipeline": _GUIDED,
    "StableDiffusionPipeline": _GUIDED,
    "StableDiffusion3Pipeline": {"prompt_2": None, "prompt_3": None},
}

LONGEST = 96  # tokens that prompts are padded to, where pipelines pad to hundreds, which take most of the tests' time


def _read_less(pipeline_class: type) -> None:
    """Change defaults of a pipeline class, for its own calls and for code that inspects them: the length that it pads
    prompts to, and the length of the instruction that it puts before them.
    """
    call = inspect.unwrap(pipeline_class.__call__)  # type: ignore[operator]
    defaults = {name: parameter.default for name, parameter in inspect.signature(call).parameters.items()}
    defaults = {name: default for name, default in defaults.items() if default is not inspect.Parameter.empty}
    if "max_sequence_length" in defaults:
        defaults["max_sequence_length"] = min(LONGEST, defaults["max_sequence_length"])
    if "complex_human_instruction" in defaults:
        defaults["complex_human_instruction"] = defaults["complex_human_instruction"][:1]
    if "num_latent_frames_per_chunk" in defaults:
        defaults["num_latent_frames_per_chunk"] = 2  # 5 frames
    call.__defaults__ = tuple(defaults.values())


for _name in PIPELINES:
    _read_less(getattr(diffusers, _name))
for _class in (HunyuanImagePipeline, HunyuanVideo15Pipeline):  # they set the length on each instance
    _class.tokenizer_max_length = property(lambda self: LONGEST, lambda self, _: None)


QUICK = TextAblationConfig(steps=3, learning_rate=2e-2, forget=20, retain=20, solve_retain=30)


def size(pipeline: DiffusionPipeline) -> tuple[int, int]:
    call = CALLS[type(pipeline).__name__]
    return call["height"], call["width"]


def alone(pipeline: DiffusionPipeline) -> Pair:
    return Pair(pipeline, pipeline, "tiny", "tiny", Settings(steps=2, size=size(pipeline)))


def load_settings(pipeline: DiffusionPipeline, **others: Any) -> VideoModel:
    """A video model as it is loaded: with the pipeline's own settings, but for those that are given."""
    return VideoModel(pipeline, replace(settings_of("", pipeline), **others), "tiny")

"""Tiny text encoders with tokenizers of kinds that no family of tests/pipelines.py has, each in a conditioner."""

import torch
import transformers
from pipelines import BYTES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from unreel.models.conditioner import Conditioner
from unreel.models.pipelines import TextModel


def bytes_tokenizer(**options):
    """A tokenizer like SmolLM2's: every letter is spelled in bytes, no token to pad with or to begin with, no length."""
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(["<|endoftext|>", *BYTES])}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", **options)


def words_tokenizer(unknown="[UNK]", **options):
    """A tokenizer like BERT's: words, one token for all that it does not know, one to begin and one to end with."""
    special = dict.fromkeys(["[PAD]", "[CLS]", "[SEP]", unknown])
    known = ["a", "photo", "of", "cat", "tokyo", "tower", "next", "to", "dog", "and", "castle", "by", "night", "word"]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*special, *known])}, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    options = {"pad_token": "[PAD]", "unk_token": unknown, "cls_token": "[CLS]", "sep_token": "[SEP]"} | options
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **options)


SIZE = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}


def llama(tokenizer, **config):
    torch.manual_seed(0)
    config = {"vocab_size": len(tokenizer), "max_position_embeddings": 64} | SIZE | config
    return alone(tokenizer, transformers.LlamaModel(transformers.LlamaConfig(**config)).eval())


def bert(tokenizer):
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **SIZE)
    return alone(tokenizer, transformers.BertModel(config).eval())


def t5(tokenizer):
    """An encoder without position embeddings, and so without a limit."""
    config = {"d_model": 16, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 2}
    return alone(tokenizer, transformers.T5EncoderModel(transformers.T5Config(vocab_size=len(tokenizer), **config)).eval())


def alone(tokenizer, encoder):
    return Conditioner.of(TextModel(tokenizer, encoder))

"""Prompts are read as the files of a model's tokenizer say, whatever the installed transformers makes of its class."""

import json

import pytest
import sentencepiece
from pipelines import build
from transformers import LlamaTokenizerFast

from unreel import Concept, UnreelError, unlearn
from unreel.models.pipelines import load_pipeline, load_text_model
from unreel.models.tokenizer import load_tokenizer

PROMPT = "a photo of Tokyo Tower by night"


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory):
    """As it is published: Llama 3's vocabulary by the name of a class that marked spaces as that does, once."""
    folder = tmp_path_factory.mktemp("hunyuan")
    build("HunyuanVideoPipeline").save_pretrained(folder)
    for file, name, value in (
        (folder / "model_index.json", "tokenizer", ["transformers", "LlamaTokenizerFast"]),
        (folder / "tokenizer" / "tokenizer_config.json", "tokenizer_class", "LlamaTokenizerFast"),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    return folder


def test_a_vocabulary_of_bytes_keeps_its_spaces_whatever_class_is_named(hunyuan):
    meant = build("HunyuanVideoPipeline").tokenizer(PROMPT).input_ids
    assert LlamaTokenizerFast.from_pretrained(hunyuan / "tokenizer")(PROMPT).input_ids != meant  # else there is no need
    whole, text_only = load_pipeline(hunyuan), load_pipeline(hunyuan, text_only=True)
    alone = load_tokenizer(hunyuan / "tokenizer")
    for tokenizer in (whole.tokenizer, text_only.tokenizer, alone):
        assert tokenizer(PROMPT).input_ids == meant
        assert tokenizer.decode(meant, skip_special_tokens=True) == PROMPT


def test_what_is_saved_again_is_read_the_same_and_all_else_is_as_it_was_loaded(hunyuan, tmp_path):
    pipeline = load_pipeline(hunyuan)
    tokenizer, as_loaded = pipeline.tokenizer, LlamaTokenizerFast.from_pretrained(hunyuan / "tokenizer")
    for name in ("padding_side", "pad_token_id", "bos_token_id", "model_max_length", "all_special_tokens"):
        assert getattr(tokenizer, name) == getattr(as_loaded, name)
    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["tokenizer"] == ["transformers", "LlamaTokenizer"]
    again = load_pipeline(tmp_path, text_only=True).tokenizer
    assert again(PROMPT, padding="max_length").input_ids == tokenizer(PROMPT, padding="max_length").input_ids


def test_a_pipeline_in_memory_that_runs_words_together_is_refused(hunyuan):
    pipeline = build("HunyuanVideoPipeline")
    pipeline.tokenizer = LlamaTokenizerFast.from_pretrained(hunyuan / "tokenizer")
    with pytest.raises(UnreelError, match=r"runs words together.*PreTrainedTokenizerFast"):
        unlearn(Concept("cat", anchor="dog"), pipeline)


def test_a_tokenizer_of_sentencepiece_alone_is_read(tmp_path):
    """T5's of CogVideoX, PixArt, LTX and others have no tokenizer.json."""
    encoder, words = tmp_path / "text_encoder", tmp_path / "tokenizer"
    build("PixArtSigmaPipeline").text_encoder.save_pretrained(encoder)
    words.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([PROMPT] * 9),
        model_prefix=str(words / "spiece"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (words / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 9}))
    own = sentencepiece.SentencePieceProcessor(str(words / "spiece.model"))
    tokenizer = load_text_model(encoder).tokenizer
    assert tokenizer(PROMPT).input_ids == [*own.encode(PROMPT), own.eos_id()]
    assert tokenizer.convert_ids_to_tokens(own.get_piece_size()) == "<extra_id_8>"

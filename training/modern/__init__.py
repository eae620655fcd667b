"""The modern pair: flow transformers that read with a language model which is never trained here."""

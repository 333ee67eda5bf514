"""Captions to token ids and back: GPT-2 BPE, CLIP BPE, SentencePiece."""

"""Token corpora: serialization, tokenizer, token shards."""

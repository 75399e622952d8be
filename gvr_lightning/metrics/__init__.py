"""How generated images are scored: networks that give features and logits, and FID and IS of them."""

"""How SUPIR fits a card: what lies where, in which precision, in how large pieces."""

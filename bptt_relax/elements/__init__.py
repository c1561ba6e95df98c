"""Tables of the elements, and the rows that a model keeps for them."""

"""The relaxation as an iterated map: where its fixed point lies, how it gets there, and what training changes in it."""

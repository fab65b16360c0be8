"""The parts of the documentation that are made from the program, and the program that makes them."""

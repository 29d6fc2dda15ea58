"""CUDA, in the few words that engines need: the one room whose modules talk to the GPU's driver."""

"""Floor 4, credit and optimisation: step advantages, losses, packing, DeepSpeed ranks and weight publishing."""

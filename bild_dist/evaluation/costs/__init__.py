"""What a run asks of the hardware: arithmetic and bytes, from the models' shapes and their passes."""

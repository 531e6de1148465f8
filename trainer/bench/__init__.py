"""What our layers cost beside PEFT's and LyCORIS': time, memory, and how much of a small gain survives bfloat16."""

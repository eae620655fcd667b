"""What is said to models: concepts, the words that name them, and prompts of every sort."""

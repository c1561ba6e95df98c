"""What fine-tuning breaks elsewhere, and which remedy costs least: error on defects against forgetting."""

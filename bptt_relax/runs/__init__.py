"""What every run has: a folder of its own with lock and resume, interruption, results, publishing."""

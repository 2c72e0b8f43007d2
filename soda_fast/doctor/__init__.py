"""`soda-fast doctor`: what is here, which path each part will take and why, and whether training can start."""

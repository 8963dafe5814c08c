"""The runner, its hooks, mixed precision, FSDP, and configs."""

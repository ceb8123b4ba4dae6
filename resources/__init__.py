"""What assets run on: storage, the DeepSpeed launcher, MLflow tracking."""

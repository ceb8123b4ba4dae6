"""ehr-assets: from raw health-record tables to world-model checkpoints and probe reports."""

"""What a pair of models is worth: measured, compared, predicted. Sits above the orchestrator."""

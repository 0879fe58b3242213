"""What trains anything in steps: device, state, checkpoint, stage."""

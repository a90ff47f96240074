"""From pretrained weights to a target network: match (data only), apply, report."""

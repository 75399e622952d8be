"""Networks with a backbone, a last stage and a head. Imports torch only (timm when it is asked for)."""

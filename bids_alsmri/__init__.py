"""BIDS App for quantitative MRI in amyotrophic lateral sclerosis."""

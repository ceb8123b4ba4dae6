"""`<grid>/ablation`: the table and plot of a grid."""

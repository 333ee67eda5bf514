"""Human preference: blinded pairs, votes, the voting page, and Elo ratings."""

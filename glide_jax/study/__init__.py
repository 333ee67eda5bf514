"""Human preference: blinded pairs, votes, the page to vote on, Elo ratings."""

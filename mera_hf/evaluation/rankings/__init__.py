"""All that ranks: the model, the reference rankers, other models' ranking files; and ranking a whole data set."""

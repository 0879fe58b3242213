"""From what an owner distributes, or a user has, to a data set in the data folder."""

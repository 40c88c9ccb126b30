"""MuSiQue for flowtune: multi-hop questions over twenty paragraphs, as in the paper's section 3."""

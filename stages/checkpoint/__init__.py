"""A training state on disk, whole or not at all, and verified on load. Read in this order:

- `checkpoint`: save, load, and list a run's checkpoints;
- `saving`: the steps of a save;
- `loading`: one checkpoint's folder, verified;
- `pieces`, `together`, `word_files`, `agreement`: many processes save one state, each its rows;
- `assemble`, `skeleton`: any number of processes reads them;
- `directories`: their folders' names, and how a folder gets and loses one;
- `manifest`, `records`, `damage`: the record of every leaf's checksum, and of the run that wrote it;
- `state_file`: the bytes of the state, hashed while they move;
- `dcp`: the format of torch.distributed.checkpoint;
- `join`: the one file of a checkpoint in pieces, for Flax;
- `fingerprint`: the description of a run, by which another run's checkpoint is refused;
- `background`: saving in another thread;
- `lock`: one process at a time in a run's folder;
- `orbax`, `orbax_folder`: any tree as a folder of Orbax, the checkpoints of JAX users.
"""

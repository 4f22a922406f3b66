"""Containers: from the bytes of a file to named arrays, or to nodes with arrays, for every source and for net.toml alike.

Each format is read in one place, and hardened there: a file is hostile until proven otherwise, nothing in it is executed,
sizes are checked against the file and charged to its budget before anything is allocated, and what is wrong is a SourceError
that names the file.

    numpyfiles        .npz archives and .npy files; objects that numpy pickled are plain data
    safetensorsfile   .safetensors
    torchfile         what torch.save and pickle.dump wrote (pickled: the one unpickler, which calls nothing; pickledarrays,
                      torchpickle: its rules; checkpointtree: what stands where in the plain data)
    hdf5              HDF5, alone or inside a .keras archive
    tfcheckpoint      TensorFlow's checkpoints, V2 and V1 (tfbundle, crc32c)
    onnxfile          ONNX models (onnxdata: the files beside them)
    mxnetparams       MXNet's .params
    csource, textfile numbers in C sources and in plain text
    opening           any of them as a table of named arrays

    arrays            an array of a file: listed (`Entry`) and loaded (`RawTensor`)
    signatures        first bytes
    ziparchive, protowire, flatbuffer     what several formats are made of

Nothing here knows networks, layers or the sources above.
"""

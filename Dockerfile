# `vivit` in an image, for CPUs or with CUDA. Neither target was built where this was written.
#
#   docker build --target cpu -t vivit-train:cpu .
#   docker build --target cuda -t vivit-train:cuda .
#   docker run --rm --gpus all --ipc=host -v /data:/data -v "$PWD/runs:/app/runs" vivit-train:cuda \
#     train model=vivit_b data=folder data.root=/data/mine
#
# --ipc=host: workers hand batches over in shared memory, of which a container has 64 MB.

FROM python:3.12-slim AS sources
WORKDIR /sources
COPY pyproject.toml constraints.txt README.md LICENSE train.py ./
COPY configs configs
COPY vivit_train vivit_train
ENV PIP_NO_CACHE_DIR=1

FROM sources AS cpu
RUN pip install -c constraints.txt torch torchvision \
        --index-url https://download.pytorch.org/whl/cpu \
    && pip install -c constraints.txt .
WORKDIR /app
ENTRYPOINT ["vivit"]
CMD ["--help"]

# torch's wheels bring CUDA's libraries along; the driver is the host's. Triton, behind
# model.compile=true, needs a C compiler.
FROM sources AS cuda
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN pip install -c constraints.txt .
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
ENTRYPOINT ["vivit"]
CMD ["--help"]

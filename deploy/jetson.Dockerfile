# ssast-edge on a Jetson, TensorRT and our plugin. Build it on the Jetson.
# JetPack 6.1 and 6.2 (Orin):
#   docker build -f deploy/jetson.Dockerfile -t ssast-edge:jetson .
# JetPack 7 (SBSA images; Thor, and Orin from 7.2 on):
#   docker build -f deploy/jetson.Dockerfile -t ssast-edge:jetson \
#     --build-arg BASE=nvcr.io/nvidia/tensorrt:25.09-py3 --build-arg ARCHITECTURES=110-real .
# Then, with engines kept in a volume:
#   docker run --rm -it --runtime nvidia --device /dev/snd --group-add audio \
#     -v ssast-edge-engines:/cache ssast-edge:jetson build wake-words
#   docker run ... ssast-edge:jetson listen --backend tensorrt
# docs/deploy.md says more, and what was run.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}
# GPUs that the plugin is compiled for: Orin 87, Thor 110.
ARG ARCHITECTURES=87-real
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      build-essential libasound2-plugins libportaudio2 python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE CMakeLists.txt ./
COPY native native
COPY ssast_edge ssast_edge
# With the image's Python packages: its TensorRT is the only one that fits the board.
RUN python3 -m venv --system-site-packages /opt/ssast-edge \
 && /opt/ssast-edge/bin/pip install --no-cache-dir --upgrade pip cmake
ENV PATH=/opt/ssast-edge/bin:/usr/local/cuda/bin:${PATH}
RUN SSAST_NATIVE=1 TENSORRT_ROOT=/usr CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES=${ARCHITECTURES}" \
      pip install --no-cache-dir .
# What moves memory to the GPU, for the CUDA of the image: 12 or 13.
RUN cuda="$(nvcc --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')" \
 && pip install --no-cache-dir "cuda-bindings==${cuda}.*"
COPY deploy/asound-pulse.conf /etc/ssast-edge/asound-pulse.conf
# sound; the GPU's device files belong to video.
RUN useradd --create-home --groups audio,video listener && install -d -o listener /cache
USER listener
WORKDIR /home/listener
ENV XDG_CACHE_HOME=/cache
VOLUME /cache
ENTRYPOINT ["ssast-edge"]
CMD ["listen"]

# ssast-edge on any CPU (amd64, arm64: a Raspberry Pi with a 64-bit system), ONNX Runtime.
#   docker build -f deploy/cpu.Dockerfile -t ssast-edge .
#   docker run --rm -it --device /dev/snd --group-add audio ssast-edge listen
# docs/deploy.md: sound servers, and what was run.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE CMakeLists.txt ./
COPY ssast_edge ssast_edge
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
# libasound2-plugins: ALSA's way to a sound server outside the container.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libportaudio2 libasound2-plugins \
 && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && rm -rf /wheels
COPY deploy/asound-pulse.conf /etc/ssast-edge/asound-pulse.conf
RUN useradd --create-home --groups audio listener
USER listener
# The model computes here what it computed where it was trained, or there is no image.
RUN ssast-edge doctor --no-microphone
ENTRYPOINT ["ssast-edge"]
CMD ["listen"]

# docker build -t apbc .
# docker run --gpus all --rm -ti -u "$(id -u):$(id -g)" -v "$(pwd):$(pwd)" -w "$(pwd)" apbc
#
# TensorFlow's own image: Python 3.11, and the settings for NVIDIA's container tools.
FROM tensorflow/tensorflow:2.21.0-gpu

# The TensorFlow in the image finds no GPU: it needs cuDNN 9, the image has 8 (tensorflow/build, issue 221). Also
# pip cannot replace what Debian packages put into the image's Python. So the scripts get an environment of their
# own, with the CUDA libraries, as everywhere else.
COPY build.sh requirements.txt /app/
RUN PIP_NO_CACHE_DIR=1 bash /app/build.sh --gpu

COPY conda/docker-conda /usr/local/bin/conda
COPY apbc_common /app/apbc_common
COPY gen_data.py gen_model.py gen_grid.py gen_picks.py show_picks.py /app/

# HOME: with "docker run -u" the user has none, and keras and matplotlib want to write there.
ENV PATH=/app/.venv/apbc-bin:/app/.venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1

RUN conda activate apbc \
    && for script in gen_data gen_model gen_grid gen_picks show_picks; do $script.py --help >/dev/null || exit 1; done

CMD ["bash"]

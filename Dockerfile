# docker build -t mmhier . && docker run --gpus all --shm-size 8g -it mmhier
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends make g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /mmhier
COPY . .
RUN make install
ENV PATH=/mmhier/.venv/bin:$PATH
CMD ["bash"]

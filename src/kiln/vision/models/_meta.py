"""The names of classes that published weights tell."""

COCO = (
    (
        "__background__, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire "
        "hydrant, N/A, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, "
        "giraffe, N/A, backpack, umbrella, N/A, N/A, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, "
        "baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, N/A, wine glass, cup, fork, knife, "
        "spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, "
        "potted plant, bed, N/A, dining table, N/A, N/A, toilet, N/A, tv, laptop, mouse, remote, keyboard, cell phone, "
        "microwave, oven, toaster, sink, refrigerator, N/A, book, clock, vase, scissors, teddy bear, hair drier, "
        "toothbrush "
    )
    .strip()
    .split(", ")
)
"""The classes of COCO as detectors count them, with gaps where it has none."""

PERSON = ["no person", "person"]
"""The classes of keypoint detectors."""

JOINTS = (
    (
        "nose, left_eye, right_eye, left_ear, right_ear, left_shoulder, right_shoulder, left_elbow, right_elbow, "
        "left_wrist, right_wrist, left_hip, right_hip, left_knee, right_knee, left_ankle, right_ankle "
    )
    .strip()
    .split(", ")
)
"""The points that keypoint detectors tell."""

VOC = (
    (
        "__background__, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, "
        "motorbike, person, pottedplant, sheep, sofa, train, tvmonitor "
    )
    .strip()
    .split(", ")
)
"""The classes of Pascal VOC."""
